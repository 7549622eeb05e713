"""Text to image and image to image through our nodes against diffusers' pipelines, with the same weights and noise."""

import open_clip
import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from diffusers_keys import BETAS, NO_CHECKER, diffusers_ddim, pipeline_of, transformers_text
from helpers import picture, prompts, sample
from sd2_family.headless.library import LIBRARY
from sd2_family.samplers.noise import starting_noise

CFG, SEED = 7.5, 7
PROMPT, NEGATIVE = "a red cat on a beach", "blurry"


class EpsilonPNDM(PNDMScheduler):
    """PLMS of a v model as the authors do it: what is averaged over the steps is eps. Diffusers' own averages v."""

    def step(self, model_output, timestep, sample, **options):
        alpha = self.alphas_cumprod[timestep]
        return super().step(alpha**0.5 * model_output + (1 - alpha) ** 0.5 * sample, timestep, sample, **options)


def scheduler(sampler_name, prediction):
    if sampler_name == "ddim":
        return diffusers_ddim(prediction)
    pndm = PNDMScheduler if prediction == "epsilon" else EpsilonPNDM
    return pndm(**BETAS, set_alpha_to_one=False, steps_offset=1, skip_prk_steps=True, prediction_type="epsilon")


def embeddings(clip):
    """Both prompts through transformers' text model, with the padding of the model's own tokenizer."""
    tokens = open_clip.tokenize([PROMPT, NEGATIVE])
    after_end = tokens.cumsum(1) - tokens == tokens.sum(1, keepdim=True)
    tokens[after_end] = clip.tower.spec.pad_token
    with torch.no_grad():
        positive, negative = transformers_text(clip.tower)(tokens).last_hidden_state[:, None]
    return {"prompt_embeds": positive, "negative_prompt_embeds": negative}


def sampled(file, latent, **widgets):
    """Our latent, scaled as diffusers has it."""
    sides = prompts(file, PROMPT, NEGATIVE)
    return sample(file, *sides, {"samples": latent}, seed=SEED, cfg=CFG, **widgets)["samples"] * file.vae.spec.scale


@pytest.mark.parametrize(
    ("kind", "sampler_name", "steps"),
    [
        ("v1", "plms", 50),  # as its card evaluates it
        ("v1", "ddim", 10),
        ("v2-base", "ddim", 50),  # as the cards of 2.x do
        ("v2-base", "plms", 10),
        ("v2-v", "ddim", 50),
        ("v2-v", "plms", 10),
    ],
)
def test_text_to_image(load, kind, sampler_name, steps):
    file = load(kind)
    latent = torch.zeros(1, 4, 8, 12)
    ours = sampled(file, latent, steps=steps, sampler_name=sampler_name)
    theirs = pipeline_of(
        StableDiffusionPipeline, file, scheduler=scheduler(sampler_name, file.model.prediction), **NO_CHECKER
    )(
        **embeddings(file.clip),
        height=64,
        width=96,
        num_inference_steps=steps,
        guidance_scale=CFG,
        latents=starting_noise(latent, SEED),
        output_type="latent",
    ).images
    assert theirs.std() > 0.5
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["v1", "v2-base", "v2-v"])
@pytest.mark.parametrize("strength", [0.35, 0.8])  # 3 and 8 of ten steps: what is left of one is dropped
def test_image_to_image(load, kind, strength):
    file, image = load(kind), picture(64, 96)
    (latent,) = LIBRARY.classes["VAEEncode"]().encode(file.vae, image)
    ours = sampled(file, latent["samples"], steps=10, denoise=strength)
    pipeline = pipeline_of(
        StableDiffusionImg2ImgPipeline, file, scheduler=diffusers_ddim(file.model.prediction), **NO_CHECKER
    )
    with torch.no_grad():  # given as a latent: of a picture it would take a sample, and draw the noise after that
        encoded = pipeline.vae.encode(image.movedim(-1, 1) * 2 - 1).latent_dist.mode() * file.vae.spec.scale
    theirs = pipeline(
        **embeddings(file.clip),
        image=encoded,
        strength=strength,
        num_inference_steps=10,
        guidance_scale=CFG,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).images
    assert (theirs - encoded).std() > 0.3
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-3)
