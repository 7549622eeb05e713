"""Inpainting through our nodes against diffusers' pipeline, on the same random weights and noise."""

import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from diffusers_keys import diffusers_ddim, diffusers_unet, diffusers_vae, without_noise
from sd2_family import NODE_CLASS_MAPPINGS
from sd2_family.backends import backend
from sd2_family.samplers.noise import starting_noise
from tiny import write_checkpoint

STEPS, CFG, SEED = 10, 5.0, 7


@pytest.mark.parametrize(
    ("kind", "prediction"), [("v2-inpaint", "epsilon"), ("v2-inpaint", "v_prediction"), ("v1-inpaint", "epsilon")]
)
def test_ten_ddim_steps(tmp_path, monkeypatch, kind, prediction):
    (tmp_path / "checkpoints").mkdir()
    write_checkpoint(tmp_path / "checkpoints" / "tiny.safetensors", kind)
    monkeypatch.setenv("SD2_MODELS_DIR", str(tmp_path))
    model, clip, vae, *_ = backend.load_checkpoint("tiny.safetensors", prediction)
    nodes = {name: node() for name, node in NODE_CLASS_MAPPINGS.items()}

    torch.manual_seed(1)
    image = torch.rand(1, 64, 96, 3)
    mask = torch.zeros(1, 64, 96)
    mask[:, 16:40, 24:64] = 1  # whole latent pixels: diffusers takes the nearest, we the maximum
    positive, negative = (nodes["SD2CLIPTextEncode"].encode(clip, text)[0] for text in ("a (red:1.2) cat", ""))

    prepared = nodes["SD2VAEEncodeForInpaint"].encode(positive, negative, vae, image, mask, "original", False)
    (ours,) = nodes["SD2KSampler"].sample(model, SEED, STEPS, CFG, "ddim", "ldm", *prepared)

    pipeline = StableDiffusionInpaintPipeline(
        vae=without_noise(diffusers_vae(vae.autoencoder, vae.spec)),
        text_encoder=None,
        tokenizer=None,
        unet=diffusers_unet(model.unet),
        scheduler=diffusers_ddim(prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
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

    ours = ours["samples"] * vae.spec.scale
    assert theirs.std() > 0.5
    # float32 through ten steps of a random network with latents up to 31; 8e-5 is what is seen
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-3)
