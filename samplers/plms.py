"""PLMS, the pseudo linear multistep method."""

from __future__ import annotations

import torch
from torch import Tensor

from .solver import Callback, Denoise, NoiseSampler, Settle, Step, intervals, unsettled

# Adams-Bashforth weights for equal steps, newest eps first, by the number of known eps
WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def sample_plms(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSampler,
    settle: Settle = unsettled,
    callback: Callback | None = None,
) -> Tensor:
    """PLMS: Liu et al., arXiv:2202.09778; with the `ldm` spacing, the reference PLMSSampler.

    The first step calls the model twice (pseudo improved Euler); later steps reuse up to three earlier eps.
    """
    steps = intervals(sigmas)
    history: list[Tensor] = []  # eps, newest first
    for i, (sigma, sigma_next) in enumerate(steps):
        settled = settle(x, sigma)
        if settled is not x:  # which the earlier eps do not lead to
            x, history = settled, []
        denoised = denoise(x, sigma)
        if callback is not None:
            callback(Step(i, len(steps), x, denoised, sigma))
        history = [(x - denoised) / sigma, *history[:3]]
        slope = torch.zeros_like(x)
        for weight, eps in zip(WEIGHTS[len(history) - 1], history, strict=True):
            slope = slope + weight * eps
        if i == 0 and sigma_next > 0:
            x_next = denoised + sigma_next * slope
            slope = (slope + (x_next - denoise(x_next, sigma_next)) / sigma_next) / 2
        x = x + (sigma_next - sigma) * slope
    return x
