"""Masks: any shape in, float [B, H, W] in 0..1 out, 1 = repaint."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .notices import notice

NEARLY = 0.02  # how far from 0 and 1 a JPEG mask's black and white are
PLACEHOLDER = 64  # side of the zero mask that Load Image gives for an image without alpha


def normalize(mask: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Convert a mask of any rank, dtype and size to float32 [B, H, W] in 0..1, resized to `size` (H, W) if given.

    NaN becomes 0. ValueError for a mask without pixels.
    """
    if mask.numel() == 0 or mask.ndim < 2:
        raise ValueError(f"a MASK of shape {list(mask.shape)} has no pixels; connect one of [batch, height, width]")
    mask = mask.float().nan_to_num().clamp_(0, 1)
    if mask.ndim == 4 and mask.shape[1] != 1 and mask.shape[-1] in (1, 3, 4):  # an image, BHWC
        mask = mask[..., :3].mean(-1)
    mask = mask.reshape(-1, *mask.shape[-2:])
    return mask if size is None else _resize(mask, size)


def _resize(mask: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = mask.shape[-2:]
    if (height, width) == size:
        return mask
    if is_placeholder(mask):
        return mask.new_zeros(mask.shape[0], *size)
    smaller = (min(height, size[0]), min(width, size[1]))
    mask = F.adaptive_max_pool2d(mask, smaller)  # an average would wash thin strokes out
    if smaller == size:
        return mask
    smooth, sharp = (
        F.interpolate(mask[:, None], size=size, mode=mode)[:, 0] for mode in ("bilinear", "nearest-exact")
    )
    return torch.where((sharp >= 0.5) & (smooth < 0.5), sharp, smooth)  # nor do dots fade below what is repainted


def preprocess(
    mask: Tensor,
    size: tuple[int, int] | None = None,
    *,
    level: float = 0.5,
    grow_px: int = 0,
    blur_px: int = 0,
    fill: bool = False,
    invert: bool = False,
    high_pass: float = NEARLY,
    stabilize: float = NEARLY,
) -> tuple[Tensor, Tensor]:
    """Clean a mask of any kind: where to repaint, and the same with a soft edge inside it, each [B, H, W].

    size: (H, W). level: the threshold in 0..1; 0 keeps the mask soft. grow_px: negative values shrink. fill: fill what
    the mask encloses. invert: swap inside and outside first. high_pass: values up to this become 0. stabilize: values
    so close to 1 become 1.
    """
    if invert and is_placeholder(mask):  # no mask is not the same as a mask of nothing
        notice("invert has no effect, because the image has no mask; draw one, or load a file with transparency")
        invert = False
    mask = normalize(mask, size)
    drawn = snap(1 - mask if invert else mask)
    mask = threshold(snap(drawn, high_pass, stabilize), level)
    mask = grow(fill_holes(mask) if fill else mask, grow_px)
    if drawn.any() and not mask.any():
        raised = f"high_pass {high_pass:g}, " if high_pass > NEARLY else ""
        lower = "high_pass, threshold or both" if raised else "threshold"
        notice(
            f"nothing is left of the mask after {raised}threshold {level:g} and grow {grow_px}; lower {lower}, or "
            "raise grow"
        )
    return mask, feather(mask, blur_px)


def is_placeholder(mask: Tensor) -> bool:
    """Whether this is Load Image's stand-in for "no mask"."""
    return mask.shape[-2:] == (PLACEHOLDER, PLACEHOLDER) and not bool(mask.any())


def snap(mask: Tensor, near_0: float = NEARLY, near_1: float = NEARLY) -> Tensor:
    """Round values that are so close to 0 and 1 to them, 0 first; lossy files hold neither exactly."""
    return mask.masked_fill(mask >= 1 - near_1, 1.0).masked_fill_(mask <= near_0, 0.0)


def threshold(mask: Tensor, level: float) -> Tensor:
    """1 where the mask reaches `level`, else 0; level 0 keeps it soft."""
    return (mask >= level).float() if level > 0 else mask


def grow(mask: Tensor, px: int) -> Tensor:
    """Dilate [B, H, W] by a disc of radius `px`; a negative radius shrinks. Soft values spread by their maximum."""
    if px == 0:
        return mask
    if px < 0:
        return 1 - grow(1 - mask, -px)
    grown, row, reach = mask.clone(), mask, 0
    for dy in range(px, -1, -1):  # from the disc's top row, whose half width is 0, down to its widest
        half = math.isqrt(px * px - dy * dy)
        for _ in range(half - reach):
            row = F.max_pool2d(row, (1, 3), stride=1, padding=(0, 1))
        reach = half
        if dy < mask.shape[-2]:
            below, above = grown[:, dy:], grown[:, : mask.shape[-2] - dy]
            torch.maximum(below, row[:, : mask.shape[-2] - dy], out=below)
            torch.maximum(above, row[:, dy:], out=above)
    return grown


def extend(mask: Tensor, *, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> Tensor:
    """Dilate [B, H, W] by so many pixels to each side: by a box, not a disc. Soft values spread by their maximum."""
    for dim, back, on in ((1, top, bottom), (2, left, right)):
        mask = _reach(_reach(mask, back, dim).flip(dim), on, dim).flip(dim)
    return mask


def _reach(mask: Tensor, px: int, dim: int) -> Tensor:
    """The maximum of each value and the `px` after it along `dim`; the passes double what they cover."""
    mask, covered = mask.clone(), 0
    px = min(px, mask.shape[dim] - 1)
    while covered < px:
        step = min(covered + 1, px - covered)
        near, far = (mask.narrow(dim, start, mask.shape[dim] - step) for start in (0, step))
        near.copy_(torch.maximum(near, far))
        covered += step
    return mask


def feather(mask: Tensor, px: int) -> Tensor:
    """Fade the mask over the `px` inside its edge; outside it stays 0. What is thinner fades less, and never away.

    The image's border is no edge.
    """
    if px == 0:
        return mask
    eroded, total = mask, mask.clone()
    for step in range(px):
        eroded = 1 - _dilate(1 - eroded, corners=step % 2 == 1)
        total += eroded  # px + 1 times the mask where it is deep enough
    deepest = total
    for step in range(px + 1):
        deepest = _dilate(deepest, corners=step % 2 == 1)
    return mask * total / deepest.clamp(min=1e-6)


def _dilate(x: Tensor, *, corners: bool) -> Tensor:
    """The maximum over the neighbors of each pixel of [B, H, W]; with and without the corners by turns: an octagon."""
    sideways = F.max_pool2d(x, (1, 3), stride=1, padding=(0, 1))
    along = F.max_pool2d(sideways if corners else x, (3, 1), stride=1, padding=(1, 0))
    return torch.maximum(sideways, along)


def fading(length: int, px: int, *, at_start: bool, at_end: bool) -> Tensor:
    """Weights [length] that rise from 1 / px to 1 over the first px, and fall over the last."""
    weights, count = torch.ones(length), min(px, length)
    rising = torch.arange(1, count + 1) / max(px, 1)
    if at_start:
        weights[:count] *= rising
    if at_end:
        weights[length - count :] *= rising.flip(0)
    return weights


def fill_holes(mask: Tensor) -> Tensor:
    """Set to 1 what the mask (where at least 0.5) encloses: all that cannot be reached from the image's border."""
    free = F.pad((mask < 0.5).float(), (1, 1, 1, 1), value=1.0)
    outside = torch.zeros_like(free)
    outside[:, 0, 0] = 1.0
    count = 0.0
    while count < (count := outside.sum().item()):
        for _ in range(16):  # between two looks at whether anything still moves
            # a step through edges, not corners: an outline one pixel wide holds diagonally
            sideways = F.max_pool2d(outside, (1, 3), stride=1, padding=(0, 1))
            outside = torch.maximum(sideways, F.max_pool2d(outside, (3, 1), stride=1, padding=(1, 0))) * free
    enclosed = (free - outside)[:, 1:-1, 1:-1]
    return torch.maximum(mask, enclosed)


def to_latent(mask: Tensor, height: int, width: int) -> Tensor:
    """Mask of any shape -> [B, 1, height, width]: the maximum of each block, so that thin strokes survive."""
    return F.adaptive_max_pool2d(normalize(mask), (height, width))[:, None]
