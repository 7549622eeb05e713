"""Random masks in the manner of LaMa (Suvorov et al. 2021, arXiv:2109.07161): thick strokes, boxes, or everything."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def strokes(rng: np.random.Generator, size: int) -> Image.Image:
    """One to four thick polylines that wander over the picture."""
    mask = Image.new("L", (size, size))
    draw = ImageDraw.Draw(mask)
    for _ in range(rng.integers(1, 5)):
        width = int(size * rng.uniform(0.1, 0.32))
        point = rng.uniform(0.1, 0.9, 2) * size
        heading = rng.uniform(0, 2 * np.pi)
        path = [tuple(point)]
        for _ in range(rng.integers(1, 5)):
            heading += rng.normal(0, 1.0)
            step = size * rng.uniform(0.1, 0.35) * np.array([np.cos(heading), np.sin(heading)])
            point = np.clip(point + step, 0, size)
            path.append(tuple(point))
        draw.line(path, fill=255, width=width, joint="curve")
        for x, y in path:  # round caps
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    return mask


def boxes(rng: np.random.Generator, size: int) -> Image.Image:
    """One to three filled boxes, a third of the picture to most of it across."""
    mask = Image.new("L", (size, size))
    draw = ImageDraw.Draw(mask)
    for _ in range(rng.integers(1, 4)):
        width, height = rng.uniform(0.25, 0.75, 2) * size
        left, top = rng.uniform(0, size - width), rng.uniform(0, size - height)
        draw.rectangle((left, top, left + width, top + height), fill=255)
    return mask


def random_mask(rng: np.random.Generator, size: int, everything: float = 0.25) -> np.ndarray:
    """A mask [size, size] of 0 and 1 (1 = repaint); all ones with probability `everything`."""
    if rng.random() < everything:
        return np.ones((size, size), np.float32)
    mask = (strokes if rng.random() < 0.5 else boxes)(rng, size)
    return (np.asarray(mask) > 127).astype(np.float32)
