"""Our solvers as ComfyUI's guider runs them, on a guider that stands for a Gaussian."""

from types import SimpleNamespace

import pytest
import torch
from sd2_family.backends.sampler_object import SamplerObject, TabulatedSchedule, own_guidance
from sd2_family.samplers import (
    SAMPLERS,
    SCHEDULERS,
    NoiseSchedule,
    final_sample,
    from_x0,
    initial_sample,
    sampler_options,
)
from sd2_family.samplers.noise import starting_noise, step_noise

SCHEDULE = NoiseSchedule()
LATENT = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
NOISE = starting_noise(LATENT, 3)


class Guider:
    """x0 of data of standard deviation 1 around 0.3, with what a ComfyUI guider offers a sampler."""

    def __init__(self):
        sampling = SimpleNamespace(sigmas=SCHEDULE.sigmas.float(), sigma_max=SCHEDULE.sigma_max)
        self.inner_model = SimpleNamespace(model_sampling=sampling, scale_latent_inpaint=self.noised)

    def noised(self, x, sigma, noise, latent_image):
        return latent_image + sigma[:, None, None, None] * noise

    def __call__(self, x, sigma, model_options, seed):
        variance = sigma[:, None, None, None] ** 2
        return (x + 0.3 * variance) / (1 + variance)


def run(solver, sigmas, mask=None, **model_options):
    steps = []
    arguments = {"model_options": model_options, "seed": 3}
    x = solver.sample(
        Guider(),
        sigmas,
        arguments,
        lambda *step: steps.append(step),
        NOISE,
        LATENT,
        denoise_mask=mask,
        disable_pbar=True,
    )
    return x, steps


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("whole", [True, False])
def test_it_is_the_solver_itself(name, whole):
    sigmas = SCHEDULERS["ldm"](SCHEDULE, 5).float()
    got, steps = run(SamplerObject(sampler_name=name, options=sampler_options(name, 0.5), whole=whole), sigmas)
    x = initial_sample(NOISE, float(sigmas[0]), None if whole else LATENT)
    guider = Guider()
    want = SAMPLERS[name](
        lambda x, sigma: guider(x, x.new_full((len(x),), sigma), {}, 3),
        x,
        sigmas,
        noise=step_noise(LATENT, 3),
        **sampler_options(name, 0.5),
    )
    torch.testing.assert_close(got, final_sample(want, float(sigmas[-1])), rtol=1e-6, atol=1e-6)
    assert [step for step, *_ in steps] == [0, 1, 2, 3, 4]
    assert {total for *_, total in steps} == {5}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_whole_run_is_seen_in_its_noise_levels(name):
    solver = SamplerObject(sampler_name="ddim", options={})
    sigmas = SCHEDULERS[name](SCHEDULE, 20).float()
    whole = name != "ddim_uniform"  # ComfyUI's spacing, which ComfyUI takes for a part too
    assert solver.max_denoise(Guider(), sigmas) == whole
    assert not solver.max_denoise(Guider(), sigmas[8:])


def test_a_run_cut_in_two_is_the_run(monkeypatch):
    solver = SamplerObject(sampler_name="euler", options={})
    sigmas = SCHEDULERS["normal"](SCHEDULE, 6).float()
    whole, _ = run(solver, sigmas)
    first, _ = run(solver, sigmas[:4])
    silence = torch.zeros_like(NOISE)
    rest = solver.sample(
        Guider(), sigmas[3:], {"model_options": {}, "seed": 3}, None, silence, first, disable_pbar=True
    )
    torch.testing.assert_close(rest, whole, rtol=1e-5, atol=1e-5)


def test_unmasked_is_held_and_the_mask_may_change_with_the_noise():
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 4:] = 1
    solver = SamplerObject(sampler_name="ddim", options={"eta": 1.0})
    sigmas = SCHEDULERS["ldm"](SCHEDULE, 5).float()
    x, _ = run(solver, sigmas, mask)
    assert torch.equal(x[..., :4], LATENT[..., :4])
    assert not torch.allclose(x[..., 4:], LATENT[..., 4:], atol=0.1)
    asked = []

    def everywhere(sigma, mask, extra_options):
        asked.append((float(sigma[0]), set(extra_options)))
        return torch.ones_like(mask)

    run(solver, sigmas, mask, denoise_mask_function=everywhere)
    assert asked == [(sigma, {"model", "sigmas"}) for sigma in sigmas[:-1].tolist()]


def test_tabulated_schedule_is_the_schedule():
    table = TabulatedSchedule(table=SCHEDULE.sigmas)
    for name, scheduler in SCHEDULERS.items():
        torch.testing.assert_close(scheduler(table, 13), scheduler(SCHEDULE, 13), rtol=1e-12, atol=0, msg=name)
    torch.testing.assert_close(table.alphas_cumprod, SCHEDULE.alphas_cumprod)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_rescaled_guidance_keeps_the_spread_of_the_conditional_output(prediction):
    x, cond, uncond = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(2)).unbind()
    sigma = torch.full((2,), 1.7)
    arguments = {"input": x, "sigma": sigma, "cond_denoised": cond, "uncond_denoised": uncond, "cond_scale": 6.0}
    x0 = x - own_guidance(1.0, 1.0, prediction)(arguments)
    spread = from_x0(x0, x, 1.7, prediction).std((1, 2, 3))
    torch.testing.assert_close(spread, from_x0(cond, x, 1.7, prediction).std((1, 2, 3)))
    plain = x - own_guidance(1.0, 0.0, prediction)(arguments)
    torch.testing.assert_close(plain, uncond + 6 * (cond - uncond))
