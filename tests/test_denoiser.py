"""Parameterization and guidance: what the network predicts must not matter to the solvers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from sd2_family.samplers import (
    SAMPLERS,
    SCHEDULERS,
    NoiseSchedule,
    cfg,
    denoiser,
    final_sample,
    from_x0,
    guide,
    initial_sample,
    rescale,
    to_x0,
)
from torch import Tensor

SCHEDULE = NoiseSchedule()
PREDICTIONS = ("epsilon", "v_prediction")


def randn(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def stub_x0(x_t: Tensor, sigma: float) -> Tensor:
    """A nonlinear function of what a network sees, x_t = sqrt(a) x."""
    return torch.tanh(0.7 * x_t + sigma / (1 + sigma))


def stub_eps(x_t: Tensor, sigma: float) -> Tensor:
    """The noise that goes with stub_x0: eps = (x_t - sqrt(a) x0) / sqrt(1 - a)."""
    a = 1 / (1 + sigma**2)
    return (x_t - a**0.5 * stub_x0(x_t, sigma)) / (1 - a) ** 0.5


def stub_v(x_t: Tensor, sigma: float) -> Tensor:
    """The velocity that goes with stub_x0: v = sqrt(a) eps - sqrt(1 - a) x0, arXiv:2202.00512."""
    a = 1 / (1 + sigma**2)
    return a**0.5 * stub_eps(x_t, sigma) - (1 - a) ** 0.5 * stub_x0(x_t, sigma)


STUBS = {"epsilon": stub_eps, "v_prediction": stub_v}


def denoise_as(prediction: str) -> Callable[[Tensor, float], Tensor]:
    """stub_x0 by way of a network of that kind, which is told sigma, for t is rounded."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return denoiser(lambda x_t, _: STUBS[prediction](x_t, sigma), SCHEDULE, prediction)(x, sigma)

    return denoise


def trajectory(name: str, denoise: Callable[[Tensor, float], Tensor]) -> Tensor:
    """x at every step and the result."""
    sigmas = SCHEDULERS["ldm"](SCHEDULE, 10)
    noise = iter(randn(seed) for seed in range(1, 100))
    seen: list[Tensor] = []
    x = initial_sample(randn(0), sigmas[0].item())
    x = SAMPLERS[name](denoise, x, sigmas, noise=lambda: next(noise), callback=lambda step: seen.append(step.x))
    return torch.stack([*seen, x])


@pytest.mark.parametrize("name", SAMPLERS)
def test_eps_and_v_give_the_same_trajectory(name: str) -> None:
    expected = trajectory(name, lambda x, sigma: stub_x0(x / math.hypot(1, sigma), sigma))
    for prediction in PREDICTIONS:
        torch.testing.assert_close(trajectory(name, denoise_as(prediction)), expected, rtol=0, atol=1e-10)


def test_denoiser_gives_the_network_unit_scale_and_whole_timesteps() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append((x_t, t))
        return torch.zeros_like(x_t)

    noise = randn(0, torch.float32)
    sigma = SCHEDULE.sigma(700.4).item()
    denoiser(model, SCHEDULE, "epsilon")(initial_sample(noise, sigma), sigma)
    x_t, t = seen[0]
    torch.testing.assert_close(x_t, noise, rtol=1e-6, atol=0)
    assert t.tolist() == [700.0, 700.0]
    assert t.dtype == x_t.dtype == torch.float32


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6, 4518.0])
def test_from_x0_inverts_to_x0(prediction: str, sigma: float) -> None:
    x = initial_sample(randn(0), sigma)
    output = from_x0(randn(1), x, sigma, prediction)
    torch.testing.assert_close(to_x0(output, x, sigma, prediction), randn(1), rtol=0, atol=1e-10)


def test_v_of_a_known_mixture() -> None:
    # x_t = cos(phi) x0 + sin(phi) eps has v = cos(phi) eps - sin(phi) x0 (arXiv:2202.00512), sigma = tan(phi)
    x0, eps, phi = randn(1), randn(2), 0.9
    x = x0 + math.tan(phi) * eps
    v = math.cos(phi) * eps - math.sin(phi) * x0
    torch.testing.assert_close(to_x0(v, x, math.tan(phi), "v_prediction"), x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(from_x0(x0, x, math.tan(phi), "v_prediction"), v, rtol=0, atol=1e-12)
    torch.testing.assert_close(to_x0(eps, x, math.tan(phi), "epsilon"), x0, rtol=0, atol=1e-12)


def test_initial_and_final_sample() -> None:
    # x_t = sqrt(a) latent + sqrt(1 - a) noise, and x = x_t / sqrt(a)
    a = SCHEDULE.alphas_cumprod[400].item()
    sigma = SCHEDULE.sigmas[400].item()
    latent, noise = randn(1), randn(2)
    x_t = a**0.5 * latent + (1 - a) ** 0.5 * noise
    torch.testing.assert_close(initial_sample(noise, sigma, latent), x_t / a**0.5, rtol=0, atol=1e-12)
    torch.testing.assert_close(initial_sample(noise, sigma), noise / a**0.5, rtol=0, atol=1e-12)
    torch.testing.assert_close(final_sample(x_t / a**0.5, sigma), x_t, rtol=0, atol=1e-12)
    assert torch.equal(final_sample(noise, 0.0), noise)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_scale_one_is_no_guidance(prediction: str) -> None:
    cond, uncond, x = randn(1), randn(2), randn(3)
    assert torch.equal(cfg(cond, uncond, 1.0), cond)
    for phi in (0.0, 0.7, 1.0):
        guided = guide(cond, uncond, x=x, sigma=2.0, scale=1.0, phi=phi, prediction=prediction)
        torch.testing.assert_close(guided, cond, rtol=0, atol=1e-10)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_guidance_is_the_same_on_outputs_and_on_x0(prediction: str) -> None:
    x, sigma = randn(3), 2.0
    cond, uncond = randn(1), randn(2)
    outputs = [from_x0(x0, x, sigma, prediction) for x0 in (cond, uncond)]
    expected = to_x0(outputs[1] + 7.5 * (outputs[0] - outputs[1]), x, sigma, prediction)
    actual = guide(cond, uncond, x=x, sigma=sigma, scale=7.5, phi=0.0, prediction=prediction)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_rescale_is_equations_15_and_16() -> None:
    cond, guided = randn(1), 6 * randn(2) + 1
    for phi in (0.0, 0.7, 1.0):
        for i in range(2):  # each sample of the batch by its own spread
            rescaled = guided[i] * cond[i].numpy().std(ddof=1) / guided[i].numpy().std(ddof=1)
            expected = phi * rescaled + (1 - phi) * guided[i]
            torch.testing.assert_close(rescale(guided, cond, phi)[i], expected, rtol=0, atol=1e-12)
    constant = torch.ones_like(cond)
    assert torch.equal(rescale(constant, cond, 0.0), constant)
    assert rescale(constant, cond, 1.0).isfinite().all()


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_guide_rescales_what_the_network_predicts(prediction: str) -> None:
    x, sigma, phi = 3 * randn(3), 2.0, 0.7
    cond, uncond = randn(1), randn(2)
    guided = guide(cond, uncond, x=x, sigma=sigma, scale=7.5, phi=phi, prediction=prediction)
    output, plain, positive = (from_x0(x0, x, sigma, prediction) for x0 in (guided, cfg(cond, uncond, 7.5), cond))
    ratio = positive.std((1, 2, 3)) / plain.std((1, 2, 3))
    torch.testing.assert_close(
        output.std((1, 2, 3)), plain.std((1, 2, 3)) * (phi * ratio + 1 - phi), rtol=1e-10, atol=0
    )
