"""Euler steps, plain and ancestral."""

from __future__ import annotations

import math

from torch import Tensor

from .solver import Callback, Denoise, NoiseSampler, Settle, Step, intervals, unsettled


def sample_euler(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSampler,
    settle: Settle = unsettled,
    callback: Callback | None = None,
) -> Tensor:
    """Euler steps of the probability-flow ODE: Karras et al., arXiv:2206.00364."""
    return sample_euler_ancestral(denoise, x, sigmas, noise=noise, settle=settle, callback=callback, eta=0.0)


def sample_euler_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSampler,
    settle: Settle = unsettled,
    callback: Callback | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Tensor:
    """Ancestral sampling, arXiv:2010.02502 eq. 16: Euler steps to sigma_down, then new noise up to the next sigma.

    eta 0 is deterministic, 1 has the full posterior variance of DDPM; s_noise scales the new noise.
    """
    steps = intervals(sigmas)
    for i, (sigma, sigma_next) in enumerate(steps):
        x = settle(x, sigma)
        denoised = denoise(x, sigma)
        if callback is not None:
            callback(Step(i, len(steps), x, denoised, sigma))
        sigma_down, sigma_up = ancestral_split(sigma, sigma_next, eta)
        # x0 + sigma_down * eps; adding (sigma_down - sigma) * eps to x instead would lose precision at a large sigma
        x = denoised + (sigma_down / sigma) * (x - denoised)
        if sigma_up > 0:
            x = x + noise() * (sigma_up * s_noise)
    return x


def ancestral_split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Return (sigma_down, sigma_up) with sigma_down^2 + sigma_up^2 = sigma_next^2.

    sigma_up = eta sigma_next sqrt(1 - sigma_next^2 / sigma^2), capped at sigma_next, is the sigma_t of DDIM
    eta sqrt((1 - a_next) / (1 - a)) sqrt(1 - a / a_next) divided by sqrt(a_next).
    """
    sigma_up = min(sigma_next, eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2))
    return math.sqrt(sigma_next**2 - sigma_up**2), sigma_up
