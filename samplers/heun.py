"""Heun's second-order method."""

from __future__ import annotations

from torch import Tensor

from .solver import Callback, Denoise, NoiseSampler, Settle, Step, intervals, unsettled


def sample_heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSampler,
    settle: Settle = unsettled,
    callback: Callback | None = None,
) -> Tensor:
    """Heun's method, two model calls a step: Karras et al., arXiv:2206.00364, algorithm 1."""
    steps = intervals(sigmas)
    for i, (sigma, sigma_next) in enumerate(steps):
        x = settle(x, sigma)
        denoised = denoise(x, sigma)
        if callback is not None:
            callback(Step(i, len(steps), x, denoised, sigma))
        slope = (x - denoised) / sigma
        # the Euler step x + (sigma_next - sigma) * slope
        x_next = denoised + sigma_next * slope
        if sigma_next > 0:
            slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = x_next
    return x
