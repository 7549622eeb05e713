"""UniPC, a predictor-corrector of arbitrary order."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .solver import Callback, Denoise, NoiseSampler, Settle, Step, intervals, unsettled

History = list[tuple[float, Tensor]]
"""(lambda, x0) of earlier model calls, oldest first; lambda = -log sigma."""


def sample_uni_pc(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSampler,
    settle: Settle = unsettled,
    callback: Callback | None = None,
    order: int = 3,
    linear: bool = False,
) -> Tensor:
    """UniPC with data prediction: Zhao et al., arXiv:2302.04867.

    linear: B = -h ("bh1") in place of B = e^(-h) - 1 ("bh2"). It cancels but where a weight is set to 1/2.

    Each step's model call corrects the previous step and predicts the next. The order rises from 1 with the history
    and falls to 1 at the end, as in the authors' code.
    """
    steps = intervals(sigmas)
    history: History = []
    x_previous, order_now = x, 0
    for i, (sigma, sigma_next) in enumerate(steps):
        settled = settle(x, sigma)
        if settled is not x:  # which the earlier x0 do not lead to
            x, history = settled, []
        denoised = denoise(x, sigma)
        if callback is not None:
            callback(Step(i, len(steps), x, denoised, sigma))
        if sigma_next == 0:
            return denoised
        here = -math.log(sigma)
        if history:
            x = _update(x_previous, history[-order_now:], here, linear, corrector=denoised)
        history = [*history, (here, denoised)][-order:]
        order_now = min(order, len(history), len(steps) - i)
        x_previous, x = x, _update(x, history[-order_now:], -math.log(sigma_next), linear)
    return x


def _update(x: Tensor, history: History, there: float, linear: bool, corrector: Tensor | None = None) -> Tensor:
    """Step from x at the newest point of history to lambda `there`: UniP, or UniC if given the x0 there."""
    here, x0 = history[-1]
    h = there - here
    # r_k = (lambda_k - lambda) / h, D_k = (x0_k - x0) / r_k of the earlier points, newest first
    points = [((then - here) / h, earlier) for then, earlier in reversed(history[:-1])]
    if corrector is not None:
        points.append((1.0, corrector))
    # e^(-h) x + (1 - e^(-h)) x0 - B sum_k rho_k D_k
    x = x0 + math.exp(-h) * (x - x0)
    scale = -h if linear and len(points) == 1 else math.expm1(-h)
    for rho, (r, other) in zip(_rhos([r for r, _ in points], h), points, strict=True):
        x = x - (scale * rho / r) * (other - x0)
    return x


def _rhos(rs: list[float], h: float) -> list[float]:
    """Solve for the weights of D_k: sum_k rho_k r_k^(n-1) = n! phi_(n+1)(-h) / phi_1(-h) for n = 1..len(rs)."""
    if len(rs) <= 1:
        # the authors' value for a single difference, second-order for any h
        return [0.5] * len(rs)
    # phi_1(z) = (e^z - 1) / z and phi_(n+1)(z) = (phi_n(z) - 1 / n!) / z
    phi = phi_1 = math.expm1(-h) / -h
    moments = []
    for n in range(1, len(rs) + 1):
        phi = (phi - 1 / math.factorial(n)) / -h
        moments.append(math.factorial(n) * phi / phi_1)
    powers = torch.tensor([[r ** (n - 1) for r in rs] for n in range(1, len(rs) + 1)], dtype=torch.float64)
    rhos: list[float] = torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64)).tolist()
    return rhos
