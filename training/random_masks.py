"""Random masks: strokes and boxes as LaMa draws them (Suvorov et al. 2021, arXiv:2109.07161), or around an object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Box = Sequence[int]
Mask = NDArray[np.float32]  # [H, W] of 0 and 1 (1 = repaint)


def random_mask(rng: np.random.Generator, size: int, objects: Sequence[Box]) -> Mask:
    """Draw strokes, boxes, or the surroundings of one of the `objects`: [size, size]."""
    kind = rng.integers(3)
    if kind == 0:
        return binary(strokes(rng, size))
    if kind == 1:
        return binary(boxes(rng, size))
    return binary(around_object(rng, size, objects[int(rng.integers(len(objects)))]))


def strokes(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw one to four thick polylines that wander over the image."""
    mask = Image.new("L", (size, size))
    draw = ImageDraw.Draw(mask)
    for _ in range(rng.integers(1, 5)):
        width = int(size * rng.uniform(0.1, 0.32))
        path = _wander(rng, size)
        draw.line(path, fill=255, width=width, joint="curve")
        for x, y in path:  # round caps
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    return mask


def _wander(rng: np.random.Generator, size: int) -> list[tuple[float, float]]:
    point = rng.uniform(0.1, 0.9, 2) * size
    heading = rng.uniform(0, 2 * np.pi)
    path = [(float(point[0]), float(point[1]))]
    for _ in range(rng.integers(1, 5)):
        heading += rng.normal(0, 1.0)
        step = size * rng.uniform(0.1, 0.35) * np.array([np.cos(heading), np.sin(heading)])
        point = np.clip(point + step, 0, size)
        path.append((float(point[0]), float(point[1])))
    return path


def boxes(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw one to three filled boxes, each a quarter to three quarters of the image across."""
    mask = Image.new("L", (size, size))
    draw = ImageDraw.Draw(mask)
    for _ in range(rng.integers(1, 4)):
        width, height = rng.uniform(0.25, 0.75, 2) * size
        left, top = rng.uniform(0, size - width), rng.uniform(0, size - height)
        draw.rectangle((left, top, left + width, top + height), fill=255)
    return mask


def around_object(rng: np.random.Generator, size: int, box: Box) -> Image.Image:
    """Draw a rounded box, an ellipse or a scribble over the object in `box` (x0, y0, x1, y1) and a margin."""
    mask = Image.new("L", (size, size))
    draw = ImageDraw.Draw(mask)
    x0, y0, x1, y1 = box
    across, down = (x1 - x0) * rng.uniform(0.12, 0.4), (y1 - y0) * rng.uniform(0.12, 0.4)
    left, top, right, bottom = x0 - across, y0 - down, x1 + across, y1 + down
    shape = rng.integers(3)
    if shape == 0:
        draw.rounded_rectangle((left, top, right, bottom), 6, fill=255)
    elif shape == 1:
        across, down = (right - left) * 0.12, (bottom - top) * 0.12
        draw.ellipse((left - across, top - down, right + across, bottom + down), fill=255)
    else:
        rows = np.linspace(top, bottom, 6)
        path = [(x, y + rng.normal(0, 2)) for y in rows for x in (left, right)]
        draw.line(path, fill=255, width=int((bottom - top) * 0.3), joint="curve")
    return mask


def hidden_fraction(mask: Mask, objects: Sequence[Box]) -> float:
    """Return the fraction of an object that the mask covers, 0..1, for the object covered most."""
    return max(float(mask[top:bottom, left:right].mean()) for left, top, right, bottom in objects)


def binary(mask: Image.Image) -> Mask:
    """Convert a mask to float [H, W] of 0 and 1."""
    return (np.asarray(mask) > 127).astype(np.float32)
