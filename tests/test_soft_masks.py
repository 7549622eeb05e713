"""A soft mask repaints gradually: each pixel from a time of its own on."""

from dataclasses import replace

import pytest
import torch
from helpers import call, prompts, sample
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.samplers import SAMPLERS, SCHEDULERS, NoiseSchedule, gradual, run

SCHEDULE = NoiseSchedule()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_pixel_is_kept_until_its_share_of_the_run_is_left(scheduler):
    sigmas = SCHEDULERS[scheduler](SCHEDULE, 20)
    values = torch.tensor([0.0, 0.25, 0.5, 1.0]).reshape(1, 1, 1, 4)
    latent, noise = torch.full((1, 4, 1, 4), 3.0), torch.zeros(1, 4, 1, 4)
    seen = []

    def denoise(x, sigma):  # takes every pixel to 7
        seen.append((sigma, x[0, 0, 0].clone()))
        return torch.full_like(x, 7.0)

    result = run(
        SAMPLERS["euler"],
        denoise,
        sigmas,
        noise=noise,
        step_noise=lambda: torch.zeros_like(noise),
        latent=latent,
        mask=values,
        mask_at=gradual(SCHEDULE, sigmas),
    )
    end = max(float(sigmas[-1]), float(SCHEDULE.sigmas[0]))
    first, last = (float(SCHEDULE.timestep(sigma)) for sigma in (sigmas[0], end))
    for sigma, x in seen:
        left = (float(SCHEDULE.timestep(sigma)) - last) / (first - last)
        kept = (values[0, 0, 0] < left) | (values[0, 0, 0] == 0)
        assert torch.equal(x[kept], torch.full_like(x[kept], 3.0))  # the latent, without noise here
    assert result[0, 0, 0, 0] == 3.0
    assert torch.allclose(result[0, 0, 0, 3], torch.tensor(7.0), atol=0.1)


def test_strength_mixes_the_masks_own_values():
    sigmas = SCHEDULERS["normal"](SCHEDULE, 4)
    mask = torch.tensor([0.3, 0.9]).reshape(1, 1, 1, 2)
    sigma = float(SCHEDULE.sigma(500))
    assert gradual(SCHEDULE, sigmas)(mask, sigma).flatten().tolist() == [0.0, 1.0]
    assert torch.allclose(gradual(SCHEDULE, sigmas, 0.5)(mask, sigma).flatten(), torch.tensor([0.15, 0.95]))


def soft_latent():
    mask = torch.linspace(0, 1, 8).expand(1, 1, 8, 8)
    return {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), "noise_mask": mask}


def test_sd2_ksampler_repaints_gradually(load):
    file = load("v2-base")
    sides, latent = prompts(file), soft_latent()
    ours = sample(file, *sides, latent, steps=8)["samples"]
    (changed,) = STOCK["DifferentialDiffusion"]().execute(file.model)
    node = sample(type(file)(**{**vars(file), "model": changed}), *sides, latent, steps=8)["samples"]
    assert torch.equal(ours, node)  # on by itself
    assert torch.allclose(ours[..., 0], latent["samples"][..., 0], atol=1e-6)  # where the mask is 0
    moved = (ours - latent["samples"]).abs().mean((0, 1, 2))
    assert moved[1:4].mean() < moved[5:].mean()


def test_the_stock_ksampler_repaints_gradually_with_differential_diffusion(load):
    file = load("v2-base")
    widgets = {"seed": 3, "steps": 6, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    plain, gradually = (
        STOCK["KSampler"]().sample(model, *prompts(file), soft_latent(), **widgets)[0]["samples"]
        for model in (file.model, replace(file.model, differential=1.0))
    )
    assert (plain - gradually).abs().max() > 0.1


def test_a_hard_mask_is_as_before(load):
    file, latent = load("v2-base"), soft_latent()
    latent["noise_mask"] = latent["noise_mask"].round()
    (changed,) = STOCK["DifferentialDiffusion"]().execute(file.model)
    plain = sample(file, *prompts(file), latent)["samples"]
    again = call("SD2KSampler", changed, 5, 2, 4.0, "ddim", "ldm", *prompts(file), latent, 1.0)[0]["samples"]
    assert torch.equal(plain, again)
