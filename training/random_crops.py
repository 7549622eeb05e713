"""Random crops of rendered images, chosen for detail."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .dataset import Images

CROP_SIZE = 64


def random_crops(
    images: Images, count: int, choices: np.random.Generator, side: int = CROP_SIZE
) -> tuple[NDArray[np.int64], Images]:
    """Draw the indices of `count` images [count] and a crop of each, uint8 [count, side, side, 3]."""
    places = detailed_places(images, count, choices, side)
    crops = [images[i, y : y + side, x : x + side] for i, y, x in places]
    return np.array([i for i, _, _ in places]), np.stack(crops)


def detailed_places(images: Images, count: int, choices: np.random.Generator, side: int) -> list[tuple[int, int, int]]:
    """Draw (index, y, x) of crops: of two random places in an image, the one with more detail."""
    corners = choices.integers(0, images.shape[1] - side + 1, (count, 2, 2)).tolist()
    index = choices.integers(0, len(images), count).tolist()

    def detail_at(place: tuple[int, int, int]) -> float:
        i, y, x = place
        return detail(images[i, y : y + side, x : x + side])

    return [max(((i, y, x) for y, x in two), key=detail_at) for i, two in zip(index, corners, strict=True)]


def detail(crop: Images) -> float:
    """Return the mean difference between horizontal neighbors, in gray levels."""
    return float(np.abs(np.diff(crop.astype(np.int16), axis=1)).mean())
