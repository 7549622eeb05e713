"""Text to image and image to image through our nodes against diffusers' pipelines, with the same weights and noise."""

import open_clip
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from diffusers_keys import diffusers_unet, diffusers_vae, transformers_text
from sd2_family import NODE_CLASS_MAPPINGS
from sd2_family.headless.library import LIBRARY
from sd2_family.samplers.noise import starting_noise
from tiny import write_checkpoint

CFG, SEED = 7.5, 7
PROMPT, NEGATIVE = "a red cat on a beach", "blurry"
SETTINGS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


class EpsilonPNDM(PNDMScheduler):
    """PLMS of a v model as the authors do it: what is averaged over the steps is eps. Diffusers' own averages v."""

    def step(self, model_output, timestep, sample, **options):
        alpha = self.alphas_cumprod[timestep]
        return super().step(alpha**0.5 * model_output + (1 - alpha) ** 0.5 * sample, timestep, sample, **options)


def scheduler(sampler_name, prediction):
    if sampler_name == "ddim":
        return DDIMScheduler(**SETTINGS, clip_sample=False, prediction_type=prediction)
    pndm = PNDMScheduler if prediction == "epsilon" else EpsilonPNDM
    return pndm(**SETTINGS, skip_prk_steps=True, prediction_type="epsilon")


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Our loader's outputs for a kind."""
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setenv("SD2_MODELS_DIR", str(tmp_path))

    def load(kind):
        write_checkpoint(tmp_path / "checkpoints" / "tiny.safetensors", kind)
        return NODE_CLASS_MAPPINGS["SD2CheckpointLoader"]().load("tiny.safetensors")[:3]

    return load


def pipeline_of(pipeline_class, model, vae, scheduler):
    pipeline = pipeline_class(
        vae=diffusers_vae(vae.autoencoder, vae.spec),
        text_encoder=None,
        tokenizer=None,
        unet=diffusers_unet(model.unet),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def embeddings(clip):
    """Both prompts through transformers' text model, with the padding of the model's own tokenizer."""
    tokens = open_clip.tokenize([PROMPT, NEGATIVE])
    after_end = tokens.cumsum(1) - tokens == tokens.sum(1, keepdim=True)
    tokens[after_end] = clip.tower.spec.pad_token
    with torch.no_grad():
        positive, negative = transformers_text(clip.tower)(tokens).last_hidden_state[:, None]
    return {"prompt_embeds": positive, "negative_prompt_embeds": negative}


def sample(model, clip, *, steps, sampler_name, latent, denoise=1.0):
    positive, negative = (
        NODE_CLASS_MAPPINGS["SD2CLIPTextEncode"]().encode(clip, text)[0] for text in (PROMPT, NEGATIVE)
    )
    sampler = NODE_CLASS_MAPPINGS["SD2KSampler"]()
    return sampler.sample(model, SEED, steps, CFG, sampler_name, "ldm", positive, negative, latent, denoise)[0][
        "samples"
    ]


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
    model, clip, vae = load(kind)
    latent = {"samples": torch.zeros(1, 4, 8, 12)}
    ours = sample(model, clip, steps=steps, sampler_name=sampler_name, latent=latent) * vae.spec.scale
    theirs = pipeline_of(StableDiffusionPipeline, model, vae, scheduler(sampler_name, model.prediction))(
        **embeddings(clip),
        height=64,
        width=96,
        num_inference_steps=steps,
        guidance_scale=CFG,
        latents=starting_noise(latent["samples"], SEED),
        output_type="latent",
    ).images
    assert theirs.std() > 0.5
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["v1", "v2-base", "v2-v"])
@pytest.mark.parametrize("strength", [0.35, 0.8])  # 3 and 8 of ten steps: what is left of one is dropped
def test_image_to_image(load, kind, strength):
    model, clip, vae = load(kind)
    image = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(1))
    (latent,) = LIBRARY.classes["VAEEncode"]().encode(vae, image)
    ours = sample(model, clip, steps=10, sampler_name="ddim", latent=latent, denoise=strength) * vae.spec.scale
    pipeline = pipeline_of(StableDiffusionImg2ImgPipeline, model, vae, scheduler("ddim", model.prediction))
    with torch.no_grad():  # given as a latent: of a picture it would take a sample, and draw the noise after that
        encoded = pipeline.vae.encode(image.movedim(-1, 1) * 2 - 1).latent_dist.mode() * vae.spec.scale
    theirs = pipeline(
        **embeddings(clip),
        image=encoded,
        strength=strength,
        num_inference_steps=10,
        guidance_scale=CFG,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).images
    assert (theirs - encoded).std() > 0.3
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-3)
