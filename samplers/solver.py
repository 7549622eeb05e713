"""The interface of all solvers: sample_x(denoise, x, sigmas, *, noise, settle, callback, **options) -> x.

x is returned at the last sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
"""denoise(x [B,C,h,w], sigma > 0) -> x0 of the same shape."""

NoiseSampler = Callable[[], Tensor]
"""noise() -> new unit normal noise, shaped like x."""

Settle = Callable[[Tensor, float], Tensor]
"""settle(x, sigma) -> another x at the same noise level, which a step then starts from."""


@dataclass(frozen=True)
class Step:
    """One step, reported after the model call and before x is updated; x and sigma are the model's inputs."""

    index: int
    total: int
    x: Tensor
    denoised: Tensor
    sigma: float


Callback = Callable[[Step], None]


def unsettled(x: Tensor, sigma: float) -> Tensor:
    """Return x unchanged."""
    return x


def intervals(sigmas: Tensor) -> list[tuple[float, float]]:
    """Return (sigma, next sigma) of each step as Python floats; repeated sigmas are skipped."""
    return [(here, there) for here, there in pairwise(sigmas.tolist()) if here > there]
