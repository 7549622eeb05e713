"""Random masks for training: strokes, boxes, or around an object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ..pipeline.lama_masks import Mask, binary, boxes, strokes

Box = Sequence[int]


def random_mask(rng: np.random.Generator, size: int, objects: Sequence[Box]) -> Mask:
    """Draw strokes, boxes, or the surroundings of one of the `objects`: [size, size]."""
    kind = rng.integers(3)
    if kind == 0:
        return binary(strokes(rng, size, size))
    if kind == 1:
        return binary(boxes(rng, size, size))
    return binary(around_object(rng, size, objects[int(rng.integers(len(objects)))]))


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
