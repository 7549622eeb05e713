"""Random masks of strokes and boxes, as LaMa draws them (Suvorov et al. 2021, arXiv:2109.07161)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Mask = NDArray[np.float32]  # [H, W] of 0 and 1 (1 = repaint)
Rng = np.random.Generator

HALVINGS = 16  # of the range of scales, for a given coverage
LARGEST = 16.0  # scale, at which one stroke or box covers the image


def strokes(rng: Rng, width: int, height: int, scale: float = 1.0) -> Image.Image:
    """Draw one to four thick polylines that wander over the image; `scale` multiplies their width."""
    mask, side = Image.new("L", (width, height)), min(width, height)
    draw = ImageDraw.Draw(mask)
    for _ in range(rng.integers(1, 5)):
        thickness = max(1, int(side * rng.uniform(0.1, 0.32) * scale))
        path = _wander(rng, width, height)
        draw.line(path, fill=255, width=thickness, joint="curve")
        for x, y in path:  # round caps
            draw.ellipse((x - thickness / 2, y - thickness / 2, x + thickness / 2, y + thickness / 2), fill=255)
    return mask


def _wander(rng: Rng, width: int, height: int) -> list[tuple[float, float]]:
    ends, side = np.array([width, height]), min(width, height)
    point = rng.uniform(0.1, 0.9, 2) * ends
    heading = rng.uniform(0, 2 * np.pi)
    path = [(float(point[0]), float(point[1]))]
    for _ in range(rng.integers(1, 5)):
        heading += rng.normal(0, 1.0)
        step = side * rng.uniform(0.1, 0.35) * np.array([np.cos(heading), np.sin(heading)])
        point = np.clip(point + step, 0, ends)
        path.append((float(point[0]), float(point[1])))
    return path


def boxes(rng: Rng, width: int, height: int, scale: float = 1.0) -> Image.Image:
    """Draw one to three filled boxes, each a quarter to three quarters of the image across, times `scale`."""
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    for _ in range(rng.integers(1, 4)):
        across, down = np.minimum(rng.uniform(0.25, 0.75, 2) * scale, 1) * (width, height)
        left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
        draw.rectangle((left, top, left + across, top + down), fill=255)
    return mask


SHAPES: dict[str, tuple[Callable[[Rng, int, int, float], Image.Image], ...]] = {
    "mixed": (strokes, boxes),
    "strokes": (strokes,),
    "boxes": (boxes,),
}


def covering(seed: int, width: int, height: int, *, coverage: float, kind: str) -> Mask:
    """Draw a mask that covers about this fraction of the image: [height, width].

    The shapes are those of the seed; their scale is searched for by bisection. kind: a name of SHAPES.
    """
    if kind not in SHAPES:
        raise ValueError(f"kind is {kind!r}; choose one of {', '.join(SHAPES)}")
    shape = SHAPES[kind][np.random.default_rng((seed, 1)).integers(len(SHAPES[kind]))]

    def draw(scale: float) -> Mask:
        return binary(shape(np.random.default_rng(seed), width, height, scale))

    low, high = 0.0, LARGEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if draw(middle).mean() < coverage else (low, middle)
    return draw(high)


def binary(mask: Image.Image) -> Mask:
    """Convert a mask to float [H, W] of 0 and 1."""
    return (np.asarray(mask) > 127).astype(np.float32)
