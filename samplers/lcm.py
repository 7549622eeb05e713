"""Multistep sampling of latent consistency models."""

from __future__ import annotations

from torch import Tensor

from .solver import Callback, Denoise, NoiseSampler, Settle, Step, intervals, unsettled


def sample_lcm(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSampler,
    settle: Settle = unsettled,
    callback: Callback | None = None,
) -> Tensor:
    """Multistep consistency sampling: Luo et al., arXiv:2310.04378, algorithm 3.

    Every step goes to x0 and adds new noise up to the next sigma.
    """
    steps = intervals(sigmas)
    for i, (sigma, sigma_next) in enumerate(steps):
        x = settle(x, sigma)
        denoised = denoise(x, sigma)
        if callback is not None:
            callback(Step(i, len(steps), x, denoised, sigma))
        x = denoised + sigma_next * noise() if sigma_next > 0 else denoised
    return x
