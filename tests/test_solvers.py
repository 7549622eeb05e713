"""Solvers, against closed-form solutions, against diffusers, and against the textbook forms they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from sd2_family.samplers import (
    SAMPLERS,
    SCHEDULERS,
    NoiseSchedule,
    Step,
    denoiser,
    final_sample,
    initial_sample,
    sample_dpmpp_3m_sde,
    sample_er_sde,
    to_x0,
)
from torch import Tensor

SCHEDULE = NoiseSchedule()
SOLVERS = {**SAMPLERS, "dpmpp_3m_sde": sample_dpmpp_3m_sde, "er_sde": sample_er_sde}
STOCHASTIC = ("euler_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde")
S2 = 0.25  # variance of the Gaussian data


def no_noise() -> Tensor:
    raise AssertionError("a deterministic run drew noise")


def normals(like: Tensor, seed: int = 0) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(like.shape, generator=generator, dtype=like.dtype)


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """The exact denoiser of data drawn from N(0, S2)."""
    return x * S2 / (S2 + sigma**2)


def grid(first: float, last: float, steps: int, rho: float) -> Tensor:
    return torch.linspace(first ** (1 / rho), last ** (1 / rho), steps + 1, dtype=torch.float64) ** rho


def start(shape: tuple[int, ...] = (2, 4, 3, 3), seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- (a) Gaussian data: x(sigma) = x(sigma_0) sqrt((S2 + sigma^2) / (S2 + sigma_0^2)) ---


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("euler", {}, 1),
        ("ddim", {}, 1),
        ("euler_ancestral", {"eta": 0.0}, 1),
        ("heun", {}, 2),
        ("plms", {}, 2),  # Adams-Bashforth weights are for equal steps; on a smooth uneven grid order 2 is left
        ("dpmpp_2m", {}, 2),
        ("dpmpp_2m_sde", {"eta": 0.0}, 2),
        ("dpmpp_3m_sde", {"eta": 0.0}, 2),
        ("dpmpp_sde", {"eta": 0.0}, 2),
        ("uni_pc", {"order": 1}, 2),  # the corrector adds one order
        ("uni_pc", {"order": 2}, 2),  # the last step is of first order, an error of h^2 once
        ("uni_pc", {}, 2),
    ],
)
def test_order_of_convergence(name: str, options: dict[str, float], order: int) -> None:
    exact = math.sqrt((S2 + 0.1**2) / (S2 + 5.0**2))
    errors = []
    for steps in (160, 320):
        x = SOLVERS[name](
            gaussian, torch.ones(1, dtype=torch.float64), grid(5.0, 0.1, steps, 3.0), noise=no_noise, **options
        )
        errors.append(abs(x.item() - exact))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_plms_is_of_high_order_on_equal_steps() -> None:
    exact = math.sqrt((S2 + 0.1**2) / (S2 + 5.0**2))
    errors = []
    for steps in (160, 320):
        x = SOLVERS["plms"](gaussian, torch.ones(1, dtype=torch.float64), grid(5.0, 0.1, steps, 1.0), noise=no_noise)
        errors.append(abs(x.item() - exact))
    assert math.log2(errors[0] / errors[1]) > 3.5  # fourth order, after a second-order start


def final_variance(name: str, steps: int, **options: float) -> float:
    """Exact variance of the result: the solver is linear here, so unit vectors in place of noise find each weight."""
    sigmas = grid(5.0, 0.1, steps, 3.0)
    basis: Iterator[Tensor] = iter(torch.eye(2 * steps + 1, dtype=torch.float64))
    x = next(basis) * math.sqrt(S2 + 5.0**2)
    return float((SOLVERS[name](gaussian, x, sigmas, noise=lambda: next(basis), **options) ** 2).sum())


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize(
    ("name", "order"),
    [("ddim", 1), ("euler_ancestral", 1), ("dpmpp_2m_sde", 2), ("dpmpp_3m_sde", 2), ("dpmpp_sde", 2)],
)
def test_variance_of_stochastic_solvers(name: str, order: int, eta: float) -> None:
    errors = [abs(final_variance(name, steps, eta=eta) - (S2 + 0.1**2)) for steps in (80, 160)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)
    assert errors[1] < (0.04 if order == 1 else 1e-3) * S2


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_dpmpp_3m_integrates_a_parabola_with_half_its_second_derivative(eta: float) -> None:
    # dx = (1 + eta) (x0 - x) dlambda, and here x0 = a + b s + c s^2 at s after the start of the last of three steps
    a, b, c = 0.7, -0.4, 0.9
    lambdas = [0.0, 0.5, 0.7, 1.1]
    s_of = [position - lambdas[2] for position in lambdas]
    sigmas = torch.tensor([math.exp(-position) for position in lambdas], dtype=torch.float64)
    xs: list[float] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        s = -math.log(sigma) - lambdas[2]
        xs.append(x.item())
        return torch.full_like(x, a + b * s + c * s**2)

    zero = torch.zeros(1, dtype=torch.float64)
    x = sample_dpmpp_3m_sde(denoise, zero + 2.0, sigmas, noise=lambda: zero, eta=eta)
    speed, h, count = 1 + eta, s_of[3], 200_000
    s = (torch.arange(count, dtype=torch.float64) + 0.5) * h / count
    decay = speed * torch.exp(-speed * (h - s))
    integral = float((decay * (a + b * s + c * s**2 / 2)).sum()) * h / count
    assert x.item() == pytest.approx(math.exp(-speed * h) * xs[2] + integral, abs=1e-9)


def test_variance_of_er_sde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sd2_family.samplers.er_sde.POINTS", 20_000)  # so that the order of the solver shows
    errors = [abs(final_variance("er_sde", steps) - (S2 + 0.1**2)) for steps in (80, 160)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)
    assert errors[1] < 1e-4 * S2


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_dpmpp_sde_noises_share_one_path(eta: float) -> None:
    # with x0 = 0 the noise of a whole step is that of its first half, decayed over the second, plus something new
    basis = iter(torch.eye(2, dtype=torch.float64))
    seen: list[Tensor] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    x = SOLVERS["dpmpp_sde"](
        denoise, torch.zeros(2, dtype=torch.float64), torch.tensor([4.0, 1.0]), noise=lambda: next(basis), eta=eta
    )
    h = math.log(4.0)
    first_half = 2.0 * math.sqrt(1 - math.exp(-eta * h))  # sigma_mid = 2
    assert seen[1].tolist() == pytest.approx([first_half, 0.0])
    assert x[0].item() == pytest.approx(first_half * math.exp(-(1 + eta) * h / 2))
    assert float((x**2).sum()) == pytest.approx(1 - math.exp(-2 * eta * h))


# --- (b) diffusers, fed a network output of sample * t / (t + 1) ---


def closed_form(x: Tensor, t: float) -> Tensor:
    return x * t / (t + 1)


def make(name: str, prediction: str, **options: object) -> object:
    diffusers = pytest.importorskip("diffusers")
    return getattr(diffusers, name)(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction, **options
    )


def run_theirs(scheduler, x: Tensor, **step_options: object) -> Tensor:
    for t in scheduler.timesteps:
        output = closed_form(scheduler.scale_model_input(x, t), float(t))
        x = scheduler.step(output, t, x, **step_options).prev_sample
    return x


def denoise_on(sigmas: Tensor, timesteps: Tensor, prediction: str) -> Callable[[Tensor, float], Tensor]:
    """The same network, at their timestep of each sigma."""
    times = dict(zip(sigmas.tolist(), timesteps.tolist(), strict=False))
    return lambda x, sigma: to_x0(closed_form(x / math.hypot(1, sigma), times[sigma]), x, sigma, prediction)


PREDICTIONS = pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])


@PREDICTIONS
@pytest.mark.parametrize(
    ("theirs", "ours", "options"),
    [
        ("EulerDiscreteScheduler", "euler", {}),
        ("EulerDiscreteScheduler", "euler", {"use_karras_sigmas": True}),
        ("EulerAncestralDiscreteScheduler", "euler_ancestral", {}),
        ("HeunDiscreteScheduler", "heun", {}),
        ("HeunDiscreteScheduler", "heun", {"use_karras_sigmas": True}),
    ],
)
def test_sigma_space_schedulers(theirs: str, ours: str, options: dict[str, object], prediction: str) -> None:
    scheduler = make(theirs, prediction, **options)
    scheduler.set_timesteps(12)
    # Heun lists sigma and t twice from the second step on
    sigmas = torch.unique(scheduler.sigmas.double()).flip(0)
    denoise = denoise_on(scheduler.sigmas, scheduler.timesteps, prediction)
    x = initial_sample(start(), sigmas[0].item())
    noisy = {"generator": torch.Generator().manual_seed(3)} if ours == "euler_ancestral" else {}
    expected = run_theirs(scheduler, x, **noisy)
    # theirs draws in the dtype of the network output, float64 here
    actual = SOLVERS[ours](denoise, x, sigmas, noise=normals(x, seed=3))
    # they step in float32, hence relative to samples of size ten
    torch.testing.assert_close(actual, expected.double(), rtol=1e-5, atol=1e-5)


@PREDICTIONS
@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize(
    ("theirs", "ours", "options", "ours_options"),
    [
        ("DPMSolverMultistepScheduler", "dpmpp_2m", {"algorithm_type": "dpmsolver++"}, {}),
        ("DPMSolverMultistepScheduler", "dpmpp_2m_sde", {"algorithm_type": "sde-dpmsolver++"}, {}),
        ("UniPCMultistepScheduler", "uni_pc", {"solver_order": 1}, {"order": 1}),
        ("UniPCMultistepScheduler", "uni_pc", {"solver_order": 2}, {"order": 2}),
        ("UniPCMultistepScheduler", "uni_pc", {"solver_order": 3}, {}),
    ],
)
def test_alpha_space_schedulers(
    theirs: str,
    ours: str,
    options: dict[str, object],
    ours_options: dict[str, int],
    karras: bool,
    prediction: str,
) -> None:
    scheduler = make(theirs, prediction, use_karras_sigmas=karras, **options)
    scheduler.set_timesteps(12)
    sigmas = scheduler.sigmas.double()
    denoise = denoise_on(sigmas, scheduler.timesteps, prediction)
    x = start()
    noise = normals(x, seed=3)
    expected = x
    for t in scheduler.timesteps:
        # theirs draws at every step, ours only where the next sigma is not 0
        drawn = {"variance_noise": noise()} if ours == "dpmpp_2m_sde" else {}
        expected = scheduler.step(closed_form(expected, float(t)), t, expected, **drawn).prev_sample
    x = initial_sample(x, sigmas[0].item())
    actual = SOLVERS[ours](denoise, x, sigmas, noise=normals(x, seed=3), **ours_options)
    torch.testing.assert_close(actual, expected.double(), rtol=1e-5, atol=1e-5)


@PREDICTIONS
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim_scheduler(eta: float, prediction: str) -> None:
    scheduler = make("DDIMScheduler", prediction, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(20)
    sigmas = SCHEDULERS["ldm"](SCHEDULE, 20)
    x = start()
    noise = normals(x, seed=3)
    expected = x
    for t in scheduler.timesteps:
        drawn = noise() if eta > 0 else None
        expected = scheduler.step(
            closed_form(expected, float(t)), t, expected, eta=eta, variance_noise=drawn
        ).prev_sample
    denoise = denoise_on(sigmas, scheduler.timesteps, prediction)
    x = SOLVERS["ddim"](denoise, initial_sample(x, sigmas[0].item()), sigmas, noise=normals(x, seed=3), eta=eta)
    # their alphas_cumprod are float32: 1 - a is off by 4e-5 of itself at t = 1
    torch.testing.assert_close(final_sample(x, sigmas[-1].item()), expected, rtol=1e-5, atol=1e-5)


def test_pndm_scheduler() -> None:
    # eps only: given v, theirs averages v and converts the average, which is another method than averaging eps
    scheduler = make("PNDMScheduler", "epsilon", skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(20)
    sigmas = SCHEDULERS["ldm"](SCHEDULE, 20)
    expected = run_theirs(scheduler, start())
    denoise = denoise_on(sigmas, torch.unique(scheduler.timesteps).flip(0), "epsilon")
    x = SOLVERS["plms"](denoise, initial_sample(start(), sigmas[0].item()), sigmas, noise=no_noise)
    torch.testing.assert_close(final_sample(x, sigmas[-1].item()), expected, rtol=1e-5, atol=1e-5)


# --- (c) the reference formulas in alpha space, on the reference timesteps ---


def network(x: Tensor, t: Tensor) -> Tensor:
    """A bounded, nonlinear stand-in; x is [B,4,h,w], t is [B]."""
    return torch.sin(1.3 * x + t[:, None, None, None].double() / 300) + 0.1 * x.flip(1)


def alpha_steps(steps: int) -> list[tuple[int, float, float]]:
    """(t, a_t, a_prev) from noisy to clean: t = range(0, 1000, c) + 1, the last a_prev is alphas_cumprod[0]."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    a = torch.cumprod(1 - betas, 0).tolist()
    times = [t + 1 for t in range(0, 1000, 1000 // steps)]
    return list(zip(times, (a[t] for t in times), (a[t] for t in [0, *times[:-1]]), strict=True))[::-1]


def predict_eps(x: Tensor, t: int, a: float, prediction: str) -> Tensor:
    output = network(x, torch.full((x.shape[0],), float(t)))
    return output if prediction == "epsilon" else a**0.5 * output + (1 - a) ** 0.5 * x


def textbook_ddim(x: Tensor, steps: int, eta: float, noise: Callable[[], Tensor], prediction: str) -> Tensor:
    for t, a, a_prev in alpha_steps(steps):
        eps = predict_eps(x, t, a, prediction)
        s = eta * math.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
        x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
        x = a_prev**0.5 * x0 + (1 - a_prev - s**2) ** 0.5 * eps + s * noise()
    return x


def textbook_plms(x: Tensor, steps: int, prediction: str) -> Tensor:
    def move(x: Tensor, eps: Tensor, a: float, a_prev: float) -> Tensor:
        x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
        return a_prev**0.5 * x0 + (1 - a_prev) ** 0.5 * eps

    plan = alpha_steps(steps)
    old: list[Tensor] = []
    for i, (t, a, a_prev) in enumerate(plan):
        e = predict_eps(x, t, a, prediction)
        if len(old) == 0:
            t_next = plan[i + 1][0]
            mean = (e + predict_eps(move(x, e, a, a_prev), t_next, a_prev, prediction)) / 2
        elif len(old) == 1:
            mean = (3 * e - old[-1]) / 2
        elif len(old) == 2:
            mean = (23 * e - 16 * old[-1] + 5 * old[-2]) / 12
        else:
            mean = (55 * e - 59 * old[-1] + 37 * old[-2] - 9 * old[-3]) / 24
        x = move(x, mean, a, a_prev)
        old = [*old, e][-3:]
    return x


@PREDICTIONS
@pytest.mark.parametrize("steps", [1, 5, 20, 30])
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim_is_the_reference_sampler(eta: float, steps: int, prediction: str) -> None:
    noise = start()
    expected = textbook_ddim(noise, steps, eta, normals(noise, seed=1), prediction)
    sigmas = SCHEDULERS["ldm"](SCHEDULE, steps)
    x = initial_sample(noise, sigmas[0].item())
    denoise = denoiser(network, SCHEDULE, prediction)
    x = SOLVERS["ddim"](denoise, x, sigmas, noise=normals(noise, seed=1), eta=eta)
    torch.testing.assert_close(final_sample(x, sigmas[-1].item()), expected, rtol=0, atol=1e-12)


@PREDICTIONS
@pytest.mark.parametrize("steps", [2, 5, 20, 30])
def test_plms_is_the_reference_sampler(steps: int, prediction: str) -> None:
    expected = textbook_plms(start(), steps, prediction)
    sigmas = SCHEDULERS["ldm"](SCHEDULE, steps)
    x = initial_sample(start(), sigmas[0].item())
    x = SOLVERS["plms"](denoiser(network, SCHEDULE, prediction), x, sigmas, noise=no_noise)
    torch.testing.assert_close(final_sample(x, sigmas[-1].item()), expected, rtol=0, atol=1e-12)


@PREDICTIONS
def test_float32_is_close_enough(prediction: str) -> None:
    def run(noise: Tensor) -> Tensor:
        sigmas = SCHEDULERS["ldm"](SCHEDULE, 50)
        denoise = denoiser(lambda x, t: network(x, t).to(x.dtype), SCHEDULE, prediction)
        x = SOLVERS["ddim"](denoise, initial_sample(noise, sigmas[0].item()), sigmas, noise=no_noise)
        return final_sample(x, sigmas[-1].item())

    expected = run(start())
    actual = run(start().float())
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-4)


# --- what every solver does ---


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", SOLVERS)
def test_any_schedule_and_step_count(name: str, scheduler: str) -> None:
    for schedule in (SCHEDULE, NoiseSchedule(zero_terminal_snr=True)):
        for steps in (1, 2, 3, 8):
            sigmas = SCHEDULERS[scheduler](schedule, steps)
            x = initial_sample(start(), sigmas[0].item())
            result = SOLVERS[name](gaussian, x, sigmas, noise=normals(x))
            assert result.isfinite().all()
            if name not in ("heun", "plms", "dpmpp_3m_sde"):  # these overshoot where a step spans most of the noise
                assert result.abs().max() < 6  # the data has variance S2, a single `ldm` step the start's of 1


@pytest.mark.parametrize("name", SOLVERS)
def test_no_step_returns_the_input(name: str) -> None:
    x = start()
    for sigmas in (torch.empty(0), torch.tensor([3.0])):
        assert SOLVERS[name](gaussian, x, sigmas, noise=no_noise) is x


@pytest.mark.parametrize("name", SOLVERS)
def test_one_step_to_zero_is_the_denoised_sample(name: str) -> None:
    x = start()
    result = SOLVERS[name](gaussian, x, torch.tensor([3.0, 0.0]), noise=no_noise)
    torch.testing.assert_close(result, gaussian(x, 3.0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_repeated_sigma_is_no_step(name: str) -> None:
    x = start()
    once, twice = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([3.0, 3.0, 2.0, 1.0, 1.0, 0.0])
    results = [SOLVERS[name](gaussian, x, sigmas, noise=normals(x)) for sigmas in (once, twice)]
    assert torch.equal(*results)


@pytest.mark.parametrize("name", SOLVERS)
def test_callback(name: str) -> None:
    seen: list[Step] = []
    x = start()
    sigmas = torch.tensor([3.0, 2.0, 1.0, 0.5])
    SOLVERS[name](gaussian, x, sigmas, noise=normals(x), callback=seen.append)
    assert [(s.index, s.total, s.sigma) for s in seen] == [(0, 3, 3.0), (1, 3, 2.0), (2, 3, 1.0)]
    assert seen[0].x is x
    for step in seen:
        assert torch.equal(step.denoised, gaussian(step.x, step.sigma))


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in (*STOCHASTIC, "er_sde")])
def test_deterministic_solvers_draw_nothing(name: str) -> None:
    SOLVERS[name](gaussian, start(), SCHEDULERS["ldm"](SCHEDULE, 5), noise=no_noise)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_s_noise_scales_the_noise(name: str) -> None:
    sigmas = SCHEDULERS["ldm"](SCHEDULE, 5)
    x = start()
    zero = SOLVERS[name](gaussian, x, sigmas, noise=lambda: torch.zeros_like(x))
    full, half = (SOLVERS[name](gaussian, x, sigmas, noise=normals(x), s_noise=s) - zero for s in (1.0, 0.5))
    torch.testing.assert_close(half, full / 2)
    assert full.abs().max() > 0.01


@pytest.mark.parametrize("name", [*STOCHASTIC, "ddim"])
def test_a_large_eta_stays_real(name: str) -> None:
    x = start()
    result = SOLVERS[name](gaussian, x, SCHEDULERS["ldm"](SCHEDULE, 5), noise=normals(x), eta=3.0)
    assert result.dtype == x.dtype
    assert result.isfinite().all()


@pytest.mark.parametrize("name", ["euler", "ddim", "dpmpp_2m", "uni_pc"])
def test_float32_from_zero_terminal_snr(name: str) -> None:
    # x0 + (x - x0) r keeps float32's relative error; x + (x - x0) (r - 1) would lose 3e-4 at a sigma of 4519
    sigmas = torch.tensor([NoiseSchedule(zero_terminal_snr=True).sigma_max, 1.0], dtype=torch.float64)
    x = initial_sample(start(), sigmas[0].item())
    expected = SOLVERS[name](gaussian, x, sigmas, noise=no_noise)
    actual = SOLVERS[name](gaussian, x.float(), sigmas, noise=no_noise)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=2e-6)
