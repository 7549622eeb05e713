"""Extended reverse-time SDE solvers: Cui et al., arXiv:2309.06169."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .solver import Callback, Denoise, NoiseSampler, Settle, Step, intervals, unsettled

POINTS = 200  # of the integrals


def sample_er_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSampler,
    settle: Settle = unsettled,
    callback: Callback | None = None,
) -> Tensor:
    """ER-SDE-Solver-3: arXiv:2309.06169 algorithm 3, with the phi that the paper recommends.

    From sigma = s to t, with r = phi(t) / phi(s) and the derivatives of x0 from the steps before:
    x_t = r x_s + (1 - r) x0 + (t - s + phi(t) I_0) x0' + ((t - s)^2 / 2 + phi(t) I_1) x0'' + sqrt(t^2 - r^2 s^2) n,
    where I_k is the integral of (u - s)^k / phi(u) over u from t to s.
    """
    steps = intervals(sigmas)
    past: list[tuple[float, Tensor, Tensor | None]] = []  # sigma, x0 and x0' of the last two steps, the last first
    for i, (sigma, sigma_next) in enumerate(steps):
        x = settle(x, sigma)
        denoised = denoise(x, sigma)
        if callback is not None:
            callback(Step(i, len(steps), x, denoised, sigma))
        if sigma_next == 0:
            x = denoised
            continue
        end = float(_phi(sigma_next))
        ratio, step = end / float(_phi(sigma)), sigma_next - sigma
        x = ratio * x + (1 - ratio) * denoised
        slope = None
        if past:
            first, second = _integrals(sigma, sigma_next)
            slope = (denoised - past[0][1]) / (sigma - past[0][0])
            x = x + (step + end * first) * slope
            if past[0][2] is not None:
                curve = (slope - past[0][2]) / ((sigma - past[1][0]) / 2)
                x = x + (step**2 / 2 + end * second) * curve
        x = x + math.sqrt(max(sigma_next**2 - (ratio * sigma) ** 2, 0)) * noise()
        past = [(sigma, denoised, slope), *past[:1]]
    return x


def _phi(sigma: Tensor | float) -> Tensor:
    """The noise scale: sigma (e^(sigma^0.3) + 10)."""
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    return sigma * ((sigma**0.3).exp() + 10)


def _integrals(high: float, low: float) -> tuple[float, float]:
    """Integrate 1 / phi(u) and (u - high) / phi(u) from low to high, as sums of left rectangles."""
    width = (high - low) / POINTS
    points = low + width * torch.arange(POINTS, dtype=torch.float64)
    inverse = 1 / _phi(points)
    return float(inverse.sum()) * width, float(((points - high) * inverse).sum()) * width
