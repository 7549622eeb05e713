"""Every kind from a narrow file of the official layout, its autoencoder with 32 groups, against diffusers' modules."""

import pytest
import torch
from diffusers import PNDMScheduler
from diffusers_keys import diffusers_ddim, diffusers_unet, diffusers_vae
from sd2_family.models.checkpoint import load_checkpoint
from sd2_family.models.specs import SPECS
from sd2_family.samplers import SAMPLERS, SCHEDULERS, NoiseSchedule, cfg, denoiser, run
from test_text_to_image_parity import EpsilonPNDM
from tiny import write_checkpoint

STEPS, SCALE = 10, 5.0


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    made = {}

    def load(kind):
        if kind not in made:
            made[kind] = load_checkpoint(write_checkpoint(tmp_path_factory.mktemp(kind) / "x.safetensors", kind))
        return made[kind]

    return load


@pytest.mark.parametrize("kind", SPECS)
@torch.inference_mode()
def test_the_autoencoder(file, kind):
    ours, spec = file(kind).autoencoder, file(kind).spec.autoencoder
    theirs = diffusers_vae(ours, spec)
    assert (spec.channels, spec.group_size, theirs.config.norm_num_groups) == (32, None, 32)
    x = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = theirs.encode(x).latent_dist.mode()
    torch.testing.assert_close(ours.encode(x), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.decode(expected), theirs.decode(expected).sample, atol=1e-4, rtol=0)


def diffusers_scheduler(sampler_name, spec):
    betas = {"beta_start": spec.beta_start, "beta_end": spec.beta_end}
    if sampler_name == "ddim":
        return type(ddim := diffusers_ddim(spec.prediction)).from_config(ddim.config, **betas)
    pndm = PNDMScheduler if spec.prediction == "epsilon" else EpsilonPNDM
    options = {"set_alpha_to_one": False, "steps_offset": 1, "skip_prk_steps": True, "prediction_type": "epsilon"}
    return pndm(beta_schedule="scaled_linear", **betas, **options)


@pytest.mark.parametrize("sampler_name", ["ddim", "plms"])
@pytest.mark.parametrize("kind", SPECS)
@torch.inference_mode()
def test_ten_steps(file, kind, sampler_name):
    spec, unet = file(kind).spec, file(kind).unet
    theirs, scheduler = diffusers_unet(unet), diffusers_scheduler(sampler_name, spec)
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    extra = torch.randn(1, spec.unet.in_channels - 4, 8, 8, generator=generator)
    sides = torch.randn(2, 1, 77, spec.unet.context_dim, generator=generator)
    y = torch.tensor([20]) if spec.unet.num_classes else None
    if spec.unet.vector_dim:
        y = torch.randn(1, spec.unet.vector_dim, generator=generator)

    def guided(x, sigma):
        positive, negative = (
            denoiser(
                lambda scaled, t, context=context: unet(torch.cat([scaled, extra], 1), t, context, y),
                schedule,
                spec.prediction,
            )(x, sigma)
            for context in sides
        )
        return cfg(positive, negative, SCALE)

    schedule = NoiseSchedule(beta_start=spec.beta_start, beta_end=spec.beta_end)
    ours = run(
        SAMPLERS[sampler_name],
        guided,
        SCHEDULERS["ldm"](schedule, STEPS),
        noise=noise,
        step_noise=lambda: torch.zeros_like(noise),
    )
    scheduler.set_timesteps(STEPS)
    x = noise
    for t in scheduler.timesteps:
        positive, negative = (
            theirs(torch.cat([x, extra], 1), t, encoder_hidden_states=context, class_labels=y).sample
            for context in sides
        )
        x = scheduler.step(negative + SCALE * (positive - negative), t, x).prev_sample
    assert x.std() > 0.3
    torch.testing.assert_close(ours, x, atol=1e-3, rtol=0)
