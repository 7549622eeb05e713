"""Inpainting through our nodes against diffusers' pipeline, on the same random weights and noise."""

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from diffusers_keys import NO_CHECKER, diffusers_ddim, diffusers_vae, pipeline_of, without_noise
from helpers import call, picture, prompts, sample
from sd2_family.samplers.noise import starting_noise

STEPS, CFG, SEED = 10, 5.0, 7


@pytest.mark.parametrize(
    ("kind", "prediction"), [("v2-inpaint", "epsilon"), ("v2-inpaint", "v_prediction"), ("v1-inpaint", "epsilon")]
)
def test_ten_ddim_steps(load, kind, prediction):
    file = load(kind, prediction)
    image = picture(64, 96)
    mask = torch.zeros(1, 64, 96)
    mask[:, 16:40, 24:64] = 1  # whole latent pixels: diffusers takes the nearest, we the maximum
    positive, negative = prompts(file)

    prepared = call("SD2VAEEncodeForInpaint", positive, negative, file.vae, image, mask, "original", False)
    ours = sample(file, *prepared, seed=SEED, steps=STEPS, cfg=CFG)["samples"] * file.vae.spec.scale

    pipeline = pipeline_of(
        StableDiffusionInpaintPipeline,
        file,
        vae=without_noise(diffusers_vae(file.vae.autoencoder, file.vae.spec)),
        scheduler=diffusers_ddim(prediction),
        **NO_CHECKER,
    )
    theirs = pipeline(
        image=image.movedim(-1, 1),
        mask_image=mask[:, None],
        prompt_embeds=positive[0][0],
        negative_prompt_embeds=negative[0][0],
        height=64,
        width=96,
        strength=1.0,
        num_inference_steps=STEPS,
        guidance_scale=CFG,
        latents=starting_noise(torch.zeros(1, 4, 8, 12), SEED),
        output_type="latent",
    ).images

    assert theirs.std() > 0.5
    # float32 through ten steps of a random network with latents up to 31; 8e-5 is what is seen
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-3)
