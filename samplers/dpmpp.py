"""DPM-Solver++ in its multistep and stochastic forms.

Lu et al., arXiv:2211.01095. Time is lambda = log(alpha / sigma_t) = -log sigma, and h is the step in lambda.
"""

from __future__ import annotations

import math

from torch import Tensor

from .brownian import BrownianPath
from .solver import Callback, Denoise, NoiseSampler, Settle, Step, intervals, unsettled


def sample_dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSampler,
    settle: Settle = unsettled,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M): arXiv:2211.01095 algorithm 2."""
    return sample_dpmpp_2m_sde(denoise, x, sigmas, noise=noise, settle=settle, callback=callback, eta=0.0)


def sample_dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSampler,
    settle: Settle = unsettled,
    callback: Callback | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    path: BrownianPath | None = None,
) -> Tensor:
    """SDE-DPM-Solver++(2M), midpoint form: arXiv:2211.01095; eta 0 solves the ODE instead of the SDE.

    path: where the noise comes from, in place of `noise`.
    """
    steps = intervals(sigmas)
    previous: tuple[Tensor, float] | None = None  # x0 of the last step, and its h
    for i, (sigma, sigma_next) in enumerate(steps):
        settled = settle(x, sigma)
        if settled is not x:  # which the earlier x0 do not lead to
            x, previous = settled, None
        denoised = denoise(x, sigma)
        if callback is not None:
            callback(Step(i, len(steps), x, denoised, sigma))
        if sigma_next == 0:
            x = denoised
            continue
        h = math.log(sigma / sigma_next)
        target = denoised
        if previous is not None:
            # D = x0 + (x0 - x0_previous) h / (2 h_previous), x0 extrapolated to the middle of the step
            target = denoised + (h / (2 * previous[1])) * (denoised - previous[0])
        x = _step(x, target, h, eta)
        if eta > 0:
            drawn = noise() if path is None else path(sigma, sigma_next)
            x = x + drawn * (_noise_level(sigma_next, h, eta) * s_noise)
        previous = denoised, h
    return x


def sample_dpmpp_3m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSampler,
    settle: Settle = unsettled,
    callback: Callback | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    path: BrownianPath | None = None,
) -> Tensor:
    """SDE-DPM-Solver++(3M): x0 as the parabola in lambda through three steps; eta 0 solves the ODE.

    As in the authors' code for arXiv:2211.01095 and in k-diffusion, the second derivative has half the weight of its
    Taylor term, which leaves order 2, with a smaller error than (2M). path: where the noise comes from, in place of
    `noise`.
    """
    steps = intervals(sigmas)
    past: list[tuple[Tensor, float]] = []  # x0 and h of the last two steps, the last first
    for i, (sigma, sigma_next) in enumerate(steps):
        settled = settle(x, sigma)
        if settled is not x:  # which the earlier x0 do not lead to
            x, past = settled, []
        denoised = denoise(x, sigma)
        if callback is not None:
            callback(Step(i, len(steps), x, denoised, sigma))
        if sigma_next == 0:
            x = denoised
            continue
        h = math.log(sigma / sigma_next)
        x = _step(x, denoised, h, eta) + _bend(denoised, past, h, eta)
        if eta > 0:
            drawn = noise() if path is None else path(sigma, sigma_next)
            x = x + drawn * (_noise_level(sigma_next, h, eta) * s_noise)
        past = [(denoised, h), *past[:1]]
    return x


def sample_dpmpp_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSampler,
    settle: Settle = unsettled,
    callback: Callback | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    path: BrownianPath | None = None,
) -> Tensor:
    """SDE-DPM-Solver++(2S) with the inner model call at half of h: arXiv:2211.01095; eta 0 is its algorithm 1.

    path: where the noise of both calls comes from, in place of `noise`.
    """
    steps = intervals(sigmas)
    for i, (sigma, sigma_next) in enumerate(steps):
        x = settle(x, sigma)
        denoised = denoise(x, sigma)
        if callback is not None:
            callback(Step(i, len(steps), x, denoised, sigma))
        if sigma_next == 0:
            x = denoised
            continue
        h = math.log(sigma / sigma_next)
        sigma_mid = (sigma * sigma_next) ** 0.5 if path is None else path.middle(sigma, sigma_next)
        x_mid = _step(x, denoised, h / 2, eta)
        if eta > 0:
            first = noise() if path is None else path(sigma, sigma_mid)
            x_mid = x_mid + first * (_noise_level(sigma_mid, h / 2, eta) * s_noise)
        x = _step(x, denoise(x_mid, sigma_mid), h, eta)
        if eta > 0:
            both = _continued(first, noise(), eta * h) if path is None else path(sigma, sigma_next)
            x = x + both * (_noise_level(sigma_next, h, eta) * s_noise)
    return x


def _continued(first: Tensor, second: Tensor, h: float) -> Tensor:
    """Return the noise of a whole step whose first half had the noise `first`, from the independent noise `second`.

    Both come from one Brownian path, n = rho n_first + sqrt(1 - rho^2) z with
    rho^2 = e^(-h) (1 - e^(-h)) / (1 - e^(-2 h)) = 1 / (1 + e^h), h being eta times the step.
    """
    rho_squared = 1 / (1 + math.exp(h))
    both: Tensor = rho_squared**0.5 * first + (1 - rho_squared) ** 0.5 * second
    return both


def _step(x: Tensor, x0: Tensor, h: float, eta: float) -> Tensor:
    """Solve the SDE over h for fixed x0, without noise: e^(-(1 + eta) h) x + (1 - e^(-(1 + eta) h)) x0."""
    return x0 + math.exp(-(1 + eta) * h) * (x - x0)


def _bend(x0: Tensor, past: list[tuple[Tensor, float]], h: float, eta: float) -> Tensor | float:
    """Add to `_step` what the derivatives of x0 in lambda do over h: phi_2 h x0' - phi_3 h^2 x0'' / 2.

    With k = (1 + eta) h: phi_2 = (e^(-k) - 1) / k + 1, phi_3 = phi_2 / k - 1 / 2. past: x0 and h of the steps before,
    the last first; one gives x0' alone, none gives 0.
    """
    if not past:
        return 0.0
    k = (1 + eta) * h
    phi_2 = math.expm1(-k) / k + 1
    (before, h_1), *earlier = past
    slope = (x0 - before) / h_1
    if not earlier:
        return phi_2 * h * slope
    ((first, h_2),) = earlier
    curve = (slope - (before - first) / h_2) / (h_1 + h_2)  # x0'' / 2
    return phi_2 * h * (slope + h_1 * curve) - (phi_2 / k - 0.5) * h**2 * curve


def _noise_level(sigma_next: float, h: float, eta: float) -> float:
    """Return the standard deviation of the noise added over h: sigma_next sqrt(1 - e^(-2 eta h))."""
    return sigma_next * math.sqrt(-math.expm1(-2 * eta * h))
