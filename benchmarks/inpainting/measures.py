"""What is measured of an inpainted image, in units of 8-bit files (0..255)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...pipeline.masks import grow
from ...training.random_masks import Mask
from .cases import Case, Pixels

RING = 4  # pixels
NEAR = range(-1, 2)  # how far from the mask's border a seam is looked for, in pixels outside it
Z = 1.96  # of a 95 % interval

Region = NDArray[np.bool_]  # [H, W]


@dataclass(frozen=True)
class Measures:
    """changed, most: pixels outside the mask as drawn that differ from the input, and by how much at most.

    seam: the worst excess step, see `seam`. shift, error: mean color shift, and mean absolute error, in the RING px
    inside the mask, both against the truth. hole: mean absolute error in the whole mask. kept: PSNR outside it in dB.
    """

    changed: int
    most: int
    seam: float
    shift: float
    error: float
    hole: float
    kept: float


def measure(case: Case, result: Pixels) -> Measures:
    """Measure the result of a case, of the same size."""
    inside = case.mask > 0
    difference = np.abs(result.astype(int) - case.image)[~inside]
    ring = inside & ~(grown(case.mask, -RING) > 0)
    offset = result.astype(float) - case.truth
    squared = float((difference**2).mean()) if difference.size else 0.0
    return Measures(
        changed=int(difference.max(1).astype(bool).sum()) if difference.size else 0,
        most=int(difference.max()) if difference.size else 0,
        seam=seam(result, case.truth, case.mask),
        shift=float(np.abs(offset[ring].mean(0)).mean()),
        error=float(np.abs(offset[ring]).mean()),
        hole=float(np.abs(offset[inside]).mean()),
        kept=10 * math.log10(255**2 / squared) if squared else math.inf,
    )


def grown(mask: Mask, px: int) -> Mask:
    """The mask grown by a disc, shrunk where `px` is negative."""
    return grow(torch.from_numpy(mask)[None], px)[0].numpy()


def seam(result: Pixels, truth: Pixels, mask: Mask) -> float:
    """The worst excess step along the mask's border.

    The step at a distance is the mean absolute difference of neighboring pixels on either side of the mask grown by
    that distance; its excess is over that of the truth. The worst distance counts, as a blend may move the step.
    """
    regions = (grown(mask, distance) > 0 for distance in NEAR)
    return max((step(result, region) - step(truth, region) for region in regions), default=0.0)


def step(image: Pixels, region: Region) -> float:
    """The mean absolute difference of neighboring pixels of which one is in the region, 0 where there are none."""
    values = image.astype(float)
    crossings = [
        np.abs(np.diff(values, axis=axis))[region.take(range(1, size), axis) != region.take(range(size - 1), axis)]
        for axis, size in enumerate(region.shape)
    ]
    steps = np.concatenate(crossings)
    return float(steps.mean()) if len(steps) else 0.0


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a rate (Wilson 1927), as fractions."""
    rate, z2 = right / count, Z * Z
    center = (rate + z2 / (2 * count)) / (1 + z2 / count)
    half = Z * math.sqrt(rate * (1 - rate) / count + z2 / (4 * count * count)) / (1 + z2 / count)
    return max(0.0, center - half), min(1.0, center + half)
