"""Noise levels and spacings, against the published formulas in numpy and against diffusers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sd2_family.samplers import DISTILLED, SCHEDULERS, NoiseSchedule, truncate

SCHEDULE = NoiseSchedule()
# divisors of 1000, non-divisors, counts where the reference's last t would be 1000 (3, 9, 27, 37), and both ends
STEPS = (1, 2, 3, 7, 9, 20, 27, 30, 37, 50, 333, 500, 1000)


def reference_alphas(start: float = 0.00085, end: float = 0.012) -> np.ndarray:
    betas = np.linspace(start**0.5, end**0.5, 1000, dtype=np.float64) ** 2
    return np.cumprod(1 - betas)


def reference_sigmas() -> np.ndarray:
    a = reference_alphas()
    return np.sqrt((1 - a) / a)


def log_interpolated(t: np.ndarray) -> np.ndarray:
    return np.exp(np.interp(t, np.arange(1000), np.log(reference_sigmas())))


def spacing(name: str, steps: int) -> np.ndarray:
    """Each spacing from its definition; all but ldm end at 0."""
    sigmas = reference_sigmas()
    stride = 1000 // steps
    if name == "ldm":
        t = np.unique(np.minimum(np.asarray(range(0, 1000, stride)) + 1, 999))[::-1]
        return np.append(sigmas[t], sigmas[0])
    body = {
        "normal": lambda: log_interpolated(np.linspace(999, 0, steps)),
        "sgm_uniform": lambda: log_interpolated(np.linspace(999, 0, steps + 1)[:-1]),
        "karras": lambda: np.linspace(sigmas[-1] ** (1 / 7), sigmas[0] ** (1 / 7), steps) ** 7,
        "exponential": lambda: np.geomspace(sigmas[-1], sigmas[0], steps),
        "simple": lambda: np.array([sigmas[-(1 + int(i * (1000 / steps)))] for i in range(steps)]),
        "ddim_uniform": lambda: sigmas[np.arange(1, 1000, stride)[::-1]],
    }[name]()
    return np.append(body, 0.0)


@pytest.mark.parametrize(("start", "end"), [(0.00085, 0.012), (1e-4, 2e-2)])
def test_alphas_cumprod(start: float, end: float) -> None:
    schedule = NoiseSchedule(beta_start=start, beta_end=end)
    a = reference_alphas(start, end)
    np.testing.assert_allclose(schedule.alphas_cumprod.numpy(), a, rtol=1e-12)
    np.testing.assert_allclose(schedule.sigmas.numpy(), np.sqrt(1 / a - 1), rtol=1e-10)  # 1/a - 1 cancels 3 digits
    assert schedule.alphas_cumprod.dtype == torch.float64


def test_sigma_ends() -> None:
    assert SCHEDULE.alphas_cumprod[0].item() == pytest.approx(1 - 0.00085, abs=1e-12)
    # the two numbers that every Stable Diffusion tool shows, to the digits it shows
    assert SCHEDULE.sigma_min == pytest.approx(0.0292, abs=5e-5)
    assert SCHEDULE.sigma_max == pytest.approx(14.6146, abs=5e-5)


def test_alphas_cumprod_against_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    # theirs is a cumulative product in float32
    torch.testing.assert_close(SCHEDULE.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=2e-5, atol=1e-7)


def test_zero_terminal_snr() -> None:
    schedule = NoiseSchedule(zero_terminal_snr=True)
    # arXiv:2305.08891 algorithm 1
    root = np.sqrt(reference_alphas())
    first, last = root[0], root[-1]
    root = (root - last) * first / (first - last)
    np.testing.assert_allclose(schedule.alphas_cumprod[:-1].numpy(), root[:-1] ** 2, rtol=1e-10)
    assert schedule.alphas_cumprod[0].item() == pytest.approx(SCHEDULE.alphas_cumprod[0].item(), rel=1e-12)
    assert schedule.alphas_cumprod[-1].item() == 4.8973451890853435e-08
    assert schedule.sigma_max == pytest.approx((1 / 4.8973451890853435e-08 - 1) ** 0.5, rel=1e-12)


def test_zero_terminal_snr_against_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    )
    ours = NoiseSchedule(zero_terminal_snr=True).alphas_cumprod.float()
    # theirs goes alphas -> betas -> alphas in float32; the last value is the cap, which they set to 0
    torch.testing.assert_close(ours[:-1], theirs.alphas_cumprod[:-1], rtol=5e-4, atol=1e-6)


def test_sigma_interpolates_log_sigma() -> None:
    t = np.array([0.0, 0.25, 10.5, 500.0, 998.75, 999.0])
    np.testing.assert_allclose(SCHEDULE.sigma(torch.from_numpy(t)).numpy(), log_interpolated(t), rtol=1e-10)
    assert SCHEDULE.sigma(10.5).item() == pytest.approx((SCHEDULE.sigmas[10] * SCHEDULE.sigmas[11]).sqrt().item())
    assert SCHEDULE.sigma(5000).item() == pytest.approx(SCHEDULE.sigma_max, rel=1e-12)


def test_timestep_inverts_sigma() -> None:
    t = torch.tensor([0.0, 0.25, 1.0, 10.5, 500.0, 998.75, 999.0], dtype=torch.float64)
    torch.testing.assert_close(SCHEDULE.timestep(SCHEDULE.sigma(t)), t, rtol=0, atol=1e-9)
    torch.testing.assert_close(SCHEDULE.timestep(SCHEDULE.sigmas), torch.arange(1000.0).double(), rtol=0, atol=1e-9)
    assert SCHEDULE.timestep(1e-4).item() == 0
    assert SCHEDULE.timestep(1e4).item() == 999


def test_timestep_rounds_to_the_nearest_log_sigma() -> None:
    sigmas = torch.linspace(0.03, 14.6, 997, dtype=torch.float64)
    nearest = (sigmas.log()[:, None] - SCHEDULE.sigmas.log()).abs().argmin(1)
    assert torch.equal(SCHEDULE.timestep(sigmas).round().long(), nearest)


def test_latent_consistency_models_use_the_timesteps_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    theirs.set_timesteps(50, original_inference_steps=50)
    ours = NoiseSchedule(stride=DISTILLED)
    used = [ours.trained_timestep(float(sigma)) for sigma in ours.sigmas.flip(0)]
    assert used == theirs.timesteps.tolist()
    alphas = theirs.alphas_cumprod[theirs.timesteps.flip(0)].double()
    torch.testing.assert_close(ours.alphas_cumprod, alphas, rtol=1e-5, atol=0)
    assert ours.steps == 50
    assert NoiseSchedule(stride=DISTILLED, zero_terminal_snr=True).sigma_max > 4000


def test_shares_of_a_run_are_those_of_the_trained_timesteps() -> None:
    for share in (0.0, 0.1, 0.25, 0.6):
        trained = (1 - share) * 999
        assert SCHEDULE.sigma_after(share) == pytest.approx(float(SCHEDULE.sigma(trained)))
        distilled = NoiseSchedule(stride=DISTILLED).sigma_after(share)
        below, above = (SCHEDULE.sigmas[int((trained + 1) // 20 * 20 + more) - 1] for more in (0, 20 * (share > 0)))
        assert float(below) * (1 - 1e-9) <= distilled <= float(above) * (1 + 1e-9)
    assert [SCHEDULE.trained_timestep(float(SCHEDULE.sigmas[t])) for t in (0, 1, 500, 999)] == [0, 1, 500, 999]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_spacing(name: str, steps: int) -> None:
    sigmas = SCHEDULERS[name](SCHEDULE, steps)
    np.testing.assert_allclose(sigmas.numpy(), spacing(name, steps), rtol=1e-7, atol=0)
    assert bool((sigmas.diff() < 0).all())
    assert sigmas[-1].item() == (SCHEDULE.sigma_min if name == "ldm" else 0)


def test_ldm_timesteps() -> None:
    def timesteps(steps: int) -> list[int]:
        return [round(t) for t in SCHEDULE.timestep(SCHEDULERS["ldm"](SCHEDULE, steps)).tolist()]

    assert timesteps(4) == [751, 501, 251, 1, 0]
    assert timesteps(20) == [*range(951, 0, -50), 0]
    assert timesteps(3) == [999, 667, 334, 1, 0]  # range(0, 1000, 333) + 1 ends in 1000
    assert len(timesteps(30)) == 32  # 31 steps, as many as the reference makes
    assert timesteps(1000) == timesteps(2000) == list(range(999, -1, -1))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_no_steps_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        SCHEDULERS[name](SCHEDULE, 0)


@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        ("karras", 20, {"use_karras_sigmas": True}),
        ("exponential", 20, {"use_exponential_sigmas": True}),
        ("normal", 28, {"timestep_spacing": "linspace"}),  # 28: all timesteps are whole, theirs interpolate sigma
        ("simple", 20, {"timestep_spacing": "trailing"}),
        ("ddim_uniform", 20, {"timestep_spacing": "leading", "steps_offset": 1}),
    ],
)
def test_spacing_against_diffusers(name: str, steps: int, options: dict[str, object]) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **options
    )
    theirs.set_timesteps(steps)
    # theirs derives sigma from alphas_cumprod in float32
    torch.testing.assert_close(SCHEDULERS[name](SCHEDULE, steps).float(), theirs.sigmas, rtol=5e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "ldm"])
def test_truncate_keeps_the_step_count(name: str) -> None:
    scheduler = SCHEDULERS[name]
    # int(20 / 0.6) = 33
    assert torch.equal(truncate(scheduler, SCHEDULE, 20, 0.6), scheduler(SCHEDULE, 33)[-21:])
    assert torch.equal(truncate(scheduler, SCHEDULE, 20, 1.0), scheduler(SCHEDULE, 20))
    assert truncate(scheduler, SCHEDULE, 20, 0.0).numel() == 0


def test_truncate_ldm_keeps_the_stride() -> None:
    scheduler = SCHEDULERS["ldm"]
    whole = scheduler(SCHEDULE, 20)
    # t_enc = int(0.63 * 20) = 12: timesteps[:12] = 1..551, down to alphas_cumprod[0]
    cut = truncate(scheduler, SCHEDULE, 20, 0.63)
    assert torch.equal(cut, whole[-13:])
    assert SCHEDULE.timestep(cut[0]).item() == pytest.approx(551)
    assert torch.equal(truncate(scheduler, SCHEDULE, 20, 1.0), whole)
    assert torch.equal(truncate(scheduler, SCHEDULE, 20, 0.04), whole[-2:])  # not the none of int(0.04 * 20)
    assert truncate(scheduler, SCHEDULE, 20, 0.0).numel() == 0


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 30, 50])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_denoise_above_0_takes_a_step(name: str, steps: int) -> None:
    for denoise in np.arange(0.01, 1, 0.01):
        sigmas = truncate(SCHEDULERS[name], SCHEDULE, steps, float(denoise))
        assert sigmas[0] > sigmas[-1]
        if name == "ldm" and int(denoise * steps) >= 1:
            assert len(sigmas) == int(denoise * steps) + 1
