"""Run a network over overlapping tiles and blend the results."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def tiled(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    tile: tuple[int, int],
    overlap: int,
    scale: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
    grid: int = 1,
) -> Tensor:
    """Run network over x [B, C, H, W] in tiles of (height, width) that overlap by at least `overlap` pixels.

    scale: output pixels per input pixel. Tiles fade into each other linearly over the overlap. They begin at multiples
    of `grid`, if tile - overlap is one; the last may be smaller then.
    """
    tops, lefts = (_starts(length, size, overlap, grid) for length, size in zip(x.shape[2:], tile, strict=True))
    corners = [(top, left) for top in tops for left in lefts]
    fade = round(overlap * scale)
    out = weights = x.new_zeros(())
    for done, (top, left) in enumerate(corners):
        y = network(x[:, :, top : top + tile[0], left : left + tile[1]])
        if done == 0:  # the network determines the number of output channels
            out = y.new_zeros(*y.shape[:2], *(round(length * scale) for length in x.shape[2:]))
            weights = out.new_zeros(out.shape[2:])
        height, width = y.shape[2:]
        weight = (_ramp(height, fade).view(-1, 1) * _ramp(width, fade)).to(y)
        rows, columns = (slice(round(at * scale), round(at * scale) + n) for at, n in ((top, height), (left, width)))
        out[:, :, rows, columns] += y * weight
        weights[rows, columns] += weight
        progress(done + 1, len(corners))
    return out / weights


def _starts(length: int, tile: int, overlap: int, grid: int) -> list[int]:
    """Where the tiles begin: the last one ends at the border, whatever its overlap."""
    if length <= tile:
        return [0]
    last = -(-(length - tile) // grid) * grid
    return [*range(0, length - tile, max(tile - overlap, 1)), last]


def _ramp(length: int, fade: int) -> Tensor:
    """[length]: rises from both ends to 1 over `fade` pixels, never 0."""
    position = torch.arange(1, length + 1)
    return (torch.minimum(position, position.flip(0)) / (fade + 1)).clamp(max=1)
