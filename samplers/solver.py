"""The interface of all solvers: sample_x(denoise, x, sigmas, *, noise, callback, **options) -> x at the last sigma."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
"""denoise(x [B,C,h,w], sigma > 0) -> x0 of the same shape."""

NoiseSampler = Callable[[], Tensor]
"""noise() -> new unit normal noise, shaped like x."""


@dataclass(frozen=True)
class Step:
    """One step, reported after the model call and before x is updated; x and sigma are the model's inputs."""

    index: int
    total: int
    x: Tensor
    denoised: Tensor
    sigma: float


Callback = Callable[[Step], None]


def intervals(sigmas: Tensor) -> list[tuple[float, float]]:
    """Return (sigma, next sigma) of each step as Python floats; repeated sigmas are skipped."""
    return [(here, there) for here, there in pairwise(sigmas.tolist()) if here > there]
