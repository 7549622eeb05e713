"""A smooth correction inside a hole that meets given values along its border (Perez et al. 2003).

The correction h solves Laplacian h = h / length^2 with h = difference on the pixels that border the hole: a membrane
that fades toward the middle of the hole, so that what was generated there keeps its colors. A multigrid solves it from
coarse to fine. Where the hole cuts through an object, the two sides rightly differ and must not bleed into each other:
a border pixel pulls the less, the more it disagrees with most others. What remains of a disagreement fades out in a
thin rim, so there is no step anywhere.

Large holes are solved on a grid of blocks: waves along the border that are too short for the blocks would reach no
deeper into the hole than the rim does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

OUTLIER = 40 / 255  # the disagreement that leaves 1/e of a border pixel's pull
CONSENSUS = 5  # rounds
FADE = 0.5  # the length in which the membrane fades, as a fraction of the hole's size, the root of its area
RIM = 2.0  # px, the length in which the rest of a disagreement fades to 1/e
SWEEPS = 2
DAMPING = 0.8  # of Jacobi's sweeps, near the best for smoothing in two dimensions
MOST_CYCLES = 6
CONVERGED = 0.15 / 255  # the change by a cycle below which the error is below 0.1 / 255
FINEST = 256  # the longest side of a grid
COARSEST = 8  # of a grid, which is solved directly
REACH = 8  # px, how far the rim is followed
RIM_ITERATIONS = 16  # of conjugate gradients, which shrink the error by 0.7 each
NEIGHBORS = ((0, -1), (0, 1), (-1, 0), (1, 0))  # down, right


@dataclass(frozen=True)
class _Border:
    """The N pixels of the holes [B, H, W] that have neighbors outside, which pull at them.

    points [3, N]: image, row and column. count [N], target [N, C]: how many pull, and the mean of their differences.
    """

    points: Tensor
    count: Tensor
    target: Tensor

    @classmethod
    def of(cls, hole: Tensor, difference: Tensor) -> _Border:
        number = torch.zeros_like(hole, dtype=torch.uint8)
        outside = (~hole).view(torch.uint8)
        number[:, :, 1:] += outside[:, :, :-1]
        number[:, :, :-1] += outside[:, :, 1:]
        number[:, 1:] += outside[:, :-1]
        number[:, :-1] += outside[:, 1:]
        points = (hole & (number > 0)).nonzero().T
        count = number[tuple(points)].to(difference.dtype)
        target = torch.zeros(len(count), difference.shape[-1], dtype=difference.dtype, device=hole.device)
        for step in NEIGHBORS:
            near, within = _beside(points, step, hole)
            target += difference[tuple(near)] * (within & ~hole[tuple(near)])[:, None]
        return cls(points, count, target / count[:, None])

    def weight(self) -> Tensor:
        """How much the pixels of each hole count [N]: little where they disagree with most others of their image.

        From 0, the mean is weighted again and again by the agreement with it (Welsch's weights). A mean, as a membrane
        bends toward any outlier that is some pixels long.
        """
        image = self.points[0]
        common = torch.zeros(int(image.max()) + 1, self.target.shape[1] + 1).to(self.target)  # one more for the weight
        values = F.pad(self.target, (0, 1), value=1.0)
        pull = self.count
        for _ in range(CONSENSUS):
            mean = common[:, :-1] / common[:, -1:].clamp(min=1e-6)
            pull = (-(self.target - mean[image]).square().mean(1) / OUTLIER**2).exp()
            common = torch.zeros_like(common).index_add_(0, image, values * (pull * self.count)[:, None])
        return pull


def _beside(points: Tensor, step: tuple[int, int], image: Tensor) -> tuple[Tensor, Tensor]:
    """The points [3, N] a step (down, right) away, and whether they are in the image [B, H, W]; if not, others."""
    moved = points + points.new_tensor([0, *step])[:, None]
    sizes = points.new_tensor(image.shape)[:, None]
    within = ((moved >= 0) & (moved < sizes)).all(0)
    return torch.where(within, moved, points), within


@dataclass(frozen=True)
class _Level:
    """One grid of the hole: what is tied to what, and where springs pull it to which value.

    across [B, 1, H, W - 1], down [B, 1, H - 1, W]: the ties of neighbors. used [B, 1, H, W]: 1 where the hole is.
    springs [B, 1, H, W]: how strongly each cell is pulled, to 0 and to the values across the border. diagonal
    [B, 1, H, W], inverse: the sum of a cell's ties and springs, and 1 / diagonal, 0 where that is 0. With b, the pull
    of the springs, (diagonal - neighbors) h = b.
    """

    across: Tensor
    down: Tensor
    used: Tensor
    springs: Tensor
    diagonal: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, across: Tensor, down: Tensor, used: Tensor, springs: Tensor) -> _Level:
        diagonal = springs.clone()
        diagonal[..., :, 1:] += across
        diagonal[..., :, :-1] += across
        diagonal[..., 1:, :] += down
        diagonal[..., :-1, :] += down
        return cls(across, down, used, springs, diagonal, torch.where(diagonal > 0, 1 / diagonal, 0.0))

    @property
    def side(self) -> int:
        return max(self.used.shape[-2:])

    def coarser(self) -> _Level:
        """The level of half the size: the mean of the two ties that cross from one block to the next, all springs."""
        height, width = self.used.shape[-2:]
        across = F.pad(self.across[..., :, 1::2], (0, 0, 0, height % 2))
        down = F.pad(self.down[..., 1::2, :], (0, width % 2))
        return _Level.of(
            (across[..., ::2, :] + across[..., 1::2, :]) / 2,
            (down[..., :, ::2] + down[..., :, 1::2]) / 2,
            (_pool(self.used, 2) > 0).to(self.used.dtype),
            _pool(self.springs, 2),
        )

    def interpolate(self, h: Tensor, scale: int, size: tuple[int, int]) -> Tensor:
        """h [B, C, H, W] at `scale` times the size, cut to `size`, from the hole's cells only."""
        if scale == 1:
            return h
        around = F.avg_pool2d(torch.cat([h * self.used, self.used], 1), 3, stride=1, padding=1)
        filled = torch.where(self.used > 0, h, around[:, :-1] / around[:, -1:].clamp(min=1e-6))
        return F.interpolate(filled, scale_factor=scale, mode="bilinear")[..., : size[0], : size[1]]

    def neighbors(self, h: Tensor, b: Tensor) -> Tensor:
        """The sum of b and the tied neighbors of each pixel."""
        total = b.clone()
        total[..., :, 1:].addcmul_(self.across, h[..., :, :-1])
        total[..., :, :-1].addcmul_(self.across, h[..., :, 1:])
        total[..., 1:, :].addcmul_(self.down, h[..., :-1, :])
        total[..., :-1, :].addcmul_(self.down, h[..., 1:, :])
        return total

    def sweep(self, h: Tensor, b: Tensor, count: int = SWEEPS) -> Tensor:
        """Jacobi's method, damped."""
        for _ in range(count):
            h = h.lerp(self.neighbors(h, b).mul_(self.inverse), DAMPING)
        return h

    def residual(self, h: Tensor, b: Tensor) -> Tensor:
        return self.neighbors(h, b).addcmul_(self.diagonal, h, value=-1)

    def direct(self, b: Tensor) -> Tensor:
        """The solution of a small grid, as one dense system."""
        width = self.used.shape[-1]
        across = F.pad(self.across, (0, 1)).flatten(1)[:, :-1]
        diagonal, down = self.diagonal.flatten(1), self.down.flatten(1)
        matrix = torch.diag_embed(torch.where(diagonal > 0, diagonal, 1.0))
        for ties, offset in ((across, 1), (down, width)):
            matrix -= torch.diag_embed(ties, offset) + torch.diag_embed(ties, -offset)
        solved: Tensor = torch.linalg.solve(matrix, b.flatten(2).mT)
        return solved.mT.reshape(b.shape)


def membrane(difference: Tensor, hole: Tensor) -> Tensor:
    """The correction of a hole [B, H, W] for a difference [B, H, W, C] known outside it: [B, H, W, C], 0 outside.

    Only the difference on the pixels next to the hole counts. Along the image's own border nothing pulls, and where
    the hole covers the whole image the correction is 0.
    """
    border = _Border.of(hole, difference)
    if not len(border.count):
        return torch.zeros_like(difference)
    h = _solution(border, hole)
    _add_rim(h, border, hole)
    return h.mul_(hole[:, None]).movedim(1, -1)


def _solution(border: _Border, hole: Tensor) -> Tensor:
    """The membrane [B, C, H, W] without the rim, on blocks of a power of 2 that make at most FINEST of a side."""
    size, side = (hole.shape[1], hole.shape[2]), 1
    while max(size) > FINEST * side:
        side *= 2
    level, b = _blocks(border, hole, side)
    return level.interpolate(_solve(level, b), side, size).contiguous()


def _blocks(border: _Border, hole: Tensor, side: int) -> tuple[_Level, Tensor]:
    """The grid of blocks of `side` pixels, as `_Level.coarser` makes it from single pixels, and its b [B, C, H, W]."""
    count, height, width = hole.shape
    hole = F.pad(hole, (0, -width % side, 0, -height % side))[:, None]
    used = _pool(hole.to(border.target.dtype), side)
    across = hole[..., side - 1 : -1 : side] & hole[..., side::side]
    down = hole[..., side - 1 : -1 : side, :] & hole[..., side::side, :]
    rows, columns = used.shape[2:]
    ties = (
        across.view(count, 1, rows, side, columns - 1).to(used).mean(3),
        down.view(count, 1, rows - 1, columns, side).to(used).mean(4),
    )

    pull = border.count * border.weight()
    image, row, column = border.points[0], border.points[1] // side, border.points[2] // side
    cells = (image * rows + row) * columns + column
    values = torch.cat([border.target, torch.ones_like(border.target[:, :1])], 1) * pull[:, None]
    sums = values.new_zeros(used.numel(), values.shape[1]).index_add_(0, cells, values)
    sums = sums.view(count, rows, columns, -1).movedim(-1, 1)
    area = used.sum((2, 3), keepdim=True)
    springs = used / (FADE**2 * area.clamp(min=1)) + sums[:, -1:]
    return _Level.of(*ties, (used > 0).to(used), springs), sums[:, :-1].contiguous()


def _pool(x: Tensor, side: int) -> Tensor:
    """The sums of blocks."""
    height, width = x.shape[-2:]
    return side**2 * F.avg_pool2d(F.pad(x, (0, -width % side, 0, -height % side)), side)


def _solve(level: _Level, b: Tensor) -> Tensor:
    """h [B, C, H, W]: from the coarsest grid up, each the start of the next."""
    levels, pulls = [level], [b]
    while levels[-1].side > COARSEST:
        levels.append(levels[-1].coarser())
        pulls.append(_pool(pulls[-1], 2))
    h = levels[-1].direct(pulls[-1])
    for index in reversed(range(len(levels) - 1)):
        level, b = levels[index], pulls[index]
        h = levels[index + 1].interpolate(h, 2, (level.used.shape[2], level.used.shape[3])) * level.used
        for _ in range(1 if index else MOST_CYCLES):
            before, h = h, _cycle(levels[index:], h, b)
            if (h - before).abs().max() < CONVERGED:
                break
    return h


def _cycle(levels: Sequence[_Level], h: Tensor, b: Tensor) -> Tensor:
    """A V-cycle: smooth, correct on the coarser levels, smooth."""
    here = levels[0]
    if len(levels) == 1:
        return here.direct(b)
    h = here.sweep(h, b)
    rest = _pool(here.residual(h, b), 2)
    correction = _cycle(levels[1:], torch.zeros_like(rest), rest)
    size = (h.shape[2], h.shape[3])
    return here.sweep(h + levels[1].interpolate(correction, 2, size) * here.used, b)


def _add_rim(h: Tensor, border: _Border, hole: Tensor) -> None:
    """Add to h [B, C, H, W] what it lacks at the border, fading in RIM px: the solution of Laplacian v = v / RIM^2.

    Conjugate gradients (Hestenes and Stiefel 1952) over the N pixels near the border only.
    """
    points = (hole & _near(border, hole)).nonzero().T
    order = torch.full(hole.shape, points.shape[1], dtype=torch.int32, device=hole.device)
    order[tuple(points)] = torch.arange(points.shape[1], dtype=torch.int32, device=hole.device)
    diagonal, beside = h.new_full((points.shape[1], 1), 1 / RIM**2), []  # beside: N where there is none
    for step in NEIGHBORS:
        near, within = _beside(points, step, hole)
        beside.append(torch.where(within, order[tuple(near)], points.shape[1]))
        diagonal += within[:, None]
    linked = torch.cat(beside)

    def product(v: Tensor) -> Tensor:
        return diagonal * v - F.pad(v, (0, 0, 0, 1)).index_select(0, linked).view(4, *v.shape).sum(0)

    lacking = border.target - h.movedim(1, -1)[tuple(border.points)]
    v = h.new_zeros(points.shape[1], h.shape[1])
    residual = v.index_put((order[tuple(border.points)].long(),), border.count[:, None] * lacking)
    direction, norm = residual, residual.square().sum(0)
    for _ in range(RIM_ITERATIONS):
        along = product(direction)
        length = norm / (direction * along).sum(0).clamp(min=1e-12)
        v, residual = v + length * direction, residual - length * along
        before, norm = norm, residual.square().sum(0)
        direction = residual + norm / before.clamp(min=1e-12) * direction
    h.movedim(1, -1)[tuple(points)] += v


def _near(border: _Border, hole: Tensor) -> Tensor:
    """Whether a pixel [B, H, W] is in the same block of REACH pixels as the border, or in one around it."""
    count, height, width = hole.shape
    blocks = torch.zeros(count, -(-height // REACH), -(-width // REACH), device=hole.device)
    image, row, column = border.points
    blocks[image, row // REACH, column // REACH] = 1
    near = F.max_pool2d(blocks, 3, stride=1, padding=1) > 0
    return near.repeat_interleave(REACH, 1).repeat_interleave(REACH, 2)[:, :height, :width]
