"""What is measured of an inpainted image, in units of 8-bit files (0..255)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...pipeline.lama_masks import Mask
from ...pipeline.masks import grow
from .cases import Case, Pixels

RING = 4  # pixels
NEAR = (*range(-RING, 9), 12, 16, 24, 32)  # px outside the mask's border: where a blend may have moved a seam to
Z = 1.96  # of a 95 % interval

Region = NDArray[np.bool_]  # [H, W]


@dataclass(frozen=True)
class Measures:
    """changed, most: pixels outside the mask as drawn that differ from the input, and by how much at most.

    steps: the excess step at each distance of NEAR, see `excess_steps`. shift, error: mean color shift, and mean
    absolute error, in the RING px inside the mask, and hole: the latter in the whole mask, against the truth. kept:
    mean squared difference from the input outside the mask.
    """

    changed: int
    most: int
    steps: tuple[float, ...]
    shift: float
    error: float
    hole: float
    kept: float


@dataclass(frozen=True)
class Summary:
    """The means of several measures, the largest `most`, `seam`, the worst mean step, and `kept` as PSNR in dB."""

    changed: float
    most: int
    seam: float
    shift: float
    error: float
    hole: float
    kept: float


def measure(case: Case, result: Pixels) -> Measures:
    """Measure the result of a case, of the same size."""
    inside = case.mask > 0
    difference = np.abs(result.astype(int) - case.image) * ~inside[..., None]
    ring = inside & ~(grown(case.mask, -RING) > 0)
    offset = result.astype(float) - case.truth
    return Measures(
        changed=int(difference.any(2).sum()),
        most=int(difference.max()),
        steps=excess_steps(result, case.truth, case.mask),
        shift=float(np.abs(offset[ring].mean(0)).mean()),
        error=float(np.abs(offset[ring]).mean()),
        hole=float(np.abs(offset[inside]).mean()),
        kept=float((difference[~inside] ** 2).mean()) if not inside.all() else 0.0,
    )


def summary(measures: Sequence[Measures]) -> Summary:
    """Sum up the measures of several cases."""
    changed, shift, error, hole, kept = (
        float(np.mean([getattr(one, name) for one in measures]))
        for name in ("changed", "shift", "error", "hole", "kept")
    )
    return Summary(
        changed=changed,
        most=max(one.most for one in measures),
        seam=float(np.mean([one.steps for one in measures], axis=0).max()),
        shift=shift,
        error=error,
        hole=hole,
        kept=10 * math.log10(255**2 / kept) if kept else math.inf,
    )


def grown(mask: Mask, px: int) -> Mask:
    """The mask grown by a disc, shrunk where `px` is negative."""
    return grow(torch.from_numpy(mask)[None], px)[0].numpy()


def excess_steps(result: Pixels, truth: Pixels, mask: Mask) -> tuple[float, ...]:
    """How much larger than in the truth the step along the mask's border is, at each distance of NEAR.

    The step at a distance is the mean absolute difference of neighboring pixels on either side of the mask grown by
    that distance.
    """
    regions = [grown(mask, distance) > 0 for distance in NEAR]
    return tuple(step(result, region) - step(truth, region) for region in regions)


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
