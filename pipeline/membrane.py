"""A smooth correction inside a hole that meets given values along its border (Perez et al. 2003).

The correction h solves Laplacian h = h / length^2 with h = difference on the pixels that border the hole: a membrane
that fades toward the middle of the hole, so that what was generated there keeps its colors. A multigrid solves it from
coarse to fine. Where the hole cuts through an object, the two sides rightly differ and must not bleed into each other:
a border pixel pulls the less, the more it disagrees with most others. What remains of a disagreement fades out in a
thin rim, so there is no step anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

OUTLIER = 40 / 255  # the disagreement that leaves 1/e of a border pixel's pull
CONSENSUS = 5  # rounds
FADE = 0.5  # the length in which the membrane fades, as a fraction of the hole's size, the root of its area
RIM = 2.0  # px, the length in which the rest of a disagreement fades to 1/e
SWEEPS = 3
DAMPING = 0.8  # of Jacobi's sweeps, near the best for smoothing in two dimensions
MOST_CYCLES = 6
CONVERGED = 0.25 / 255  # the change by a cycle below which the error is below 0.1 / 255
FINEST = 512  # the longest side of a grid; larger holes take the solution of a coarser one, and the rim the rest
REACH = 8  # px, how far the rim is followed
RIM_ITERATIONS = 16  # of conjugate gradients, which shrink the error by 0.7 each


@dataclass(frozen=True)
class _Level:
    """One grid of the hole: what is tied to what, and where springs pull it to which value.

    across [B, 1, H, W - 1], down [B, 1, H - 1, W]: the ties of neighbors. used [B, 1, H, W]: 1 where the hole is.
    fade [B, 1, H, W]: the springs to 0, 1 / length^2. count [B, 1, H, W], target [B, C, H, W]: the number of springs
    to the values across the border, and their mean.
    """

    across: Tensor
    down: Tensor
    used: Tensor
    fade: Tensor
    count: Tensor
    target: Tensor

    @property
    def side(self) -> int:
        return max(self.used.shape[-2:])

    def coarser(self) -> _Level:
        """The level of half the size: the mean of the two ties that cross from one block to the next, all springs."""
        height, width = self.used.shape[-2:]
        across = F.pad(self.across[..., :, 1::2], (0, 0, 0, height % 2))
        down = F.pad(self.down[..., 1::2, :], (0, width % 2))
        count = _pool(self.count)
        return _Level(
            (across[..., ::2, :] + across[..., 1::2, :]) / 2,
            (down[..., :, ::2] + down[..., :, 1::2]) / 2,
            (_pool(self.used) > 0).to(self.used.dtype),
            _pool(self.fade),
            count,
            _pool(self.count * self.target) / count.clamp(min=1e-6),
        )

    def interpolate(self, h: Tensor, finer: _Level) -> Tensor:
        """h of this level at that of twice the size, from the hole's pixels only."""
        height, width = finer.used.shape[-2:]
        h, weight = (F.interpolate(x, scale_factor=2, mode="bilinear") for x in (h * self.used, self.used))
        return (h / weight.clamp(min=1e-6))[..., :height, :width] * finer.used


@dataclass(frozen=True)
class _Equations:
    """(diagonal - neighbors) h = b on one level; the diagonal is the sum of a pixel's ties and springs."""

    level: _Level
    diagonal: Tensor
    inverse: Tensor  # 1 / diagonal, 0 where that is 0

    @classmethod
    def of(cls, level: _Level) -> _Equations:
        diagonal = level.count + level.fade
        diagonal[..., :, 1:] += level.across
        diagonal[..., :, :-1] += level.across
        diagonal[..., 1:, :] += level.down
        diagonal[..., :-1, :] += level.down
        return cls(level, diagonal, torch.where(diagonal > 0, 1 / diagonal, 0.0))

    def neighbors(self, h: Tensor, b: Tensor) -> Tensor:
        """The sum of b and the tied neighbors of each pixel."""
        total = b.clone()
        total[..., :, 1:].addcmul_(self.level.across, h[..., :, :-1])
        total[..., :, :-1].addcmul_(self.level.across, h[..., :, 1:])
        total[..., 1:, :].addcmul_(self.level.down, h[..., :-1, :])
        total[..., :-1, :].addcmul_(self.level.down, h[..., 1:, :])
        return total

    def sweep(self, h: Tensor, b: Tensor) -> Tensor:
        """Jacobi's method, damped."""
        for _ in range(SWEEPS):
            h = h.lerp(self.neighbors(h, b).mul_(self.inverse), DAMPING)
        return h

    def residual(self, h: Tensor, b: Tensor) -> Tensor:
        return self.neighbors(h, b).addcmul_(self.diagonal, h, value=-1)


def membrane(difference: Tensor, hole: Tensor) -> Tensor:
    """The correction of a hole [B, H, W] for a difference [B, H, W, C] known outside it: [B, H, W, C], 0 outside.

    Only the difference on the pixels next to the hole counts. Along the image's own border nothing pulls, and where
    the hole covers the whole image the correction is 0.
    """
    level = _finest(hole[:, None].to(difference.dtype), difference.movedim(-1, 1))
    h = _solve(level)
    return (h + _rim(level, level.target - h)).movedim(1, -1)


def _finest(inside: Tensor, difference: Tensor) -> _Level:
    """Each pixel outside [B, 1, H, W] pulls the pixels of the hole next to it to its difference [B, C, H, W]."""
    area = inside.sum((2, 3), keepdim=True)
    outside = 1 - inside
    count = _around(outside) * inside
    target = _around(outside * difference) * inside / count.clamp(min=1)
    across, down = inside[..., :, 1:] * inside[..., :, :-1], inside[..., 1:, :] * inside[..., :-1, :]
    return _Level(across, down, inside, inside / (FADE**2 * area.clamp(min=1)), count, target)


def _around(x: Tensor) -> Tensor:
    """The sum of the four neighbors of each pixel of [B, C, H, W]."""
    total = torch.zeros_like(x)
    total[..., :, 1:] += x[..., :, :-1]
    total[..., :, :-1] += x[..., :, 1:]
    total[..., 1:, :] += x[..., :-1, :]
    total[..., :-1, :] += x[..., 1:, :]
    return total


def _pool(x: Tensor) -> Tensor:
    """The sums of blocks of 2 x 2."""
    height, width = x.shape[-2:]
    return 4 * F.avg_pool2d(F.pad(x, (0, width % 2, 0, height % 2)), 2)


def _solve(level: _Level) -> Tensor:
    """The membrane [B, C, H, W], from one pixel to the whole grid."""
    level = replace(level, count=level.count * _weight(level))
    levels = [level]
    while levels[-1].side > 1:
        levels.append(levels[-1].coarser())
    finest = next(index for index, level in enumerate(levels) if level.side <= FINEST)
    equations = [_Equations.of(level) for level in levels]
    h = torch.zeros_like(levels[-1].target)
    for index in reversed(range(len(levels))):
        level = levels[index]
        if level is not levels[-1]:
            h = levels[index + 1].interpolate(h, level)
        for _ in range(0 if index < finest else MOST_CYCLES if index == finest else 1):
            before, h = h, _cycle(equations[index:], h, level.count * level.target)
            if (h - before).abs().max() < CONVERGED:
                break
    return h


def _weight(level: _Level) -> Tensor:
    """How much the springs of each pixel count [B, 1, H, W]: little where they disagree with most others.

    From 0, the mean is weighted again and again by the agreement with it (Welsch's weights). A mean, as a membrane
    bends toward any outlier that is some pixels long.
    """
    weight = torch.zeros_like(level.count)
    for image, (count, target) in enumerate(zip(level.count[:, 0], level.target, strict=True)):
        border = count > 0
        count, target = count[border], target[:, border]  # [N], [C, N]
        common, pull = torch.zeros_like(target[:, :1]), count
        for _ in range(CONSENSUS):
            pull = (-(target - common).square().mean(0) / OUTLIER**2).exp()
            common = (pull * count * target).sum(1, keepdim=True) / (pull * count).sum().clamp(min=1e-6)
        weight[image, 0, border] = pull
    return weight


def _cycle(equations: Sequence[_Equations], h: Tensor, b: Tensor) -> Tensor:
    """A V-cycle: smooth, correct on the coarser levels, smooth."""
    here = equations[0]
    if len(equations) == 1:
        return here.inverse * b  # one pixel
    h = here.sweep(h, b)
    rest = _pool(here.residual(h, b))
    correction = _cycle(equations[1:], torch.zeros_like(rest), rest)
    return here.sweep(h + equations[1].level.interpolate(correction, here.level), b)


def _rim(level: _Level, rest: Tensor) -> Tensor:
    """What meets `rest` [B, C, H, W] at the springs and fades in RIM px: the solution of Laplacian v = v / RIM^2.

    Conjugate gradients (Hestenes and Stiefel 1952) over the N pixels near the border only.
    """
    near = F.pad(level.used * _spread(level.count), (1, 1, 1, 1)) > 0
    points = near.flatten().nonzero()[:, 0]
    number = torch.full((near.numel(),), len(points), device=points.device)
    number[points] = torch.arange(len(points), device=points.device)
    row = near.shape[-1]
    beside = torch.stack([number[points + offset] for offset in (-row, -1, 1, row)])  # [4, N], N where there is none

    def values(x: Tensor) -> Tensor:
        return F.pad(x, (1, 1, 1, 1)).movedim(1, 0).flatten(1)[:, points]  # [C, N]

    count = values(level.count)
    diagonal = count + values(_around(level.used)) + 1 / RIM**2

    def product(v: Tensor) -> Tensor:
        return diagonal * v - F.pad(v, (0, 1))[:, beside].sum(1)

    v = torch.zeros_like(values(rest))
    residual = count * values(rest)
    direction, norm = residual, residual.square().sum(1, keepdim=True)
    for _ in range(RIM_ITERATIONS):
        along = product(direction)
        length = norm / (direction * along).sum(1, keepdim=True).clamp(min=1e-12)
        v, residual = v + length * direction, residual - length * along
        before, norm = norm, residual.square().sum(1, keepdim=True)
        direction = residual + norm / before.clamp(min=1e-12) * direction
    rim = torch.zeros(rest.shape[1], near.numel(), dtype=rest.dtype, device=rest.device)
    rim[:, points] = v
    return rim.view(rest.shape[1], len(rest), *near.shape[-2:])[..., 1:-1, 1:-1].movedim(0, 1)


def _spread(x: Tensor) -> Tensor:
    """The maximum of [B, 1, H, W] over blocks of REACH and those around them, so at least REACH far."""
    height, width = x.shape[-2:]
    blocks = F.max_pool2d(F.max_pool2d(x, REACH, ceil_mode=True), 3, stride=1, padding=1)
    return blocks.repeat_interleave(REACH, 2).repeat_interleave(REACH, 3)[..., :height, :width]
