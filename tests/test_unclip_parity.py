"""unCLIP through our nodes against diffusers' pipeline, on the same random weights, statistics and noise."""

import pytest
import torch
from diffusers import DDPMScheduler, StableUnCLIPImg2ImgPipeline
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from diffusers_keys import diffusers_ddim, diffusers_unet, diffusers_vae, transformers_image, transformers_text
from safetensors.torch import save_file
from sd2_family import NODE_CLASS_MAPPINGS
from sd2_family.backends import backend
from sd2_family.models.checkpoint import load_checkpoint
from sd2_family.models.clip_image import preprocess
from sd2_family.pipeline.unclip import class_condition
from sd2_family.samplers.noise import starting_noise
from tiny import write_checkpoint

STEPS, CFG, SEED, LEVEL = 10, 5.0, 7, 250
KINDS = ("unclip-h", "unclip-l")


@pytest.fixture(params=KINDS)
def loaded(request, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    write_checkpoint(tmp_path / "checkpoints" / "tiny.safetensors", request.param)
    if request.param == "unclip-l":
        generator = torch.Generator().manual_seed(3)
        statistics = {"mean": torch.randn(48, generator=generator), "std": torch.rand(48, generator=generator) + 0.5}
        save_file(statistics, tmp_path / "checkpoints" / "ViT-L-14_stats.safetensors")
    monkeypatch.setenv("SD2_MODELS_DIR", str(tmp_path))
    return backend.load_checkpoint("tiny.safetensors")


def pipeline(loaded):
    """diffusers' pipeline around the same weights."""
    augmentation = loaded.model.noise_augmentation
    normalizer = StableUnCLIPImageNormalizer(augmentation.dim)
    normalizer.mean.data, normalizer.std.data = augmentation.data_mean[None], augmentation.data_std[None]
    unet = diffusers_unet(loaded.model.unet)
    unet.register_to_config(sample_size=8)
    pipe = StableUnCLIPImg2ImgPipeline(
        feature_extractor=None,
        image_encoder=transformers_image(loaded.clip_vision.tower),
        image_normalizer=normalizer,
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=None,
        text_encoder=transformers_text(loaded.clip.tower),
        unet=unet,
        scheduler=diffusers_ddim("v_prediction"),
        vae=diffusers_vae(loaded.vae.autoencoder, loaded.vae.spec),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def node(name, *args, **kwargs):
    return getattr(NODE_CLASS_MAPPINGS[name](), NODE_CLASS_MAPPINGS[name].FUNCTION)(*args, **kwargs)[0]


def conditioned(loaded, image):
    positive, negative = (node("SD2CLIPTextEncode", loaded.clip, text) for text in ("a (red:1.2) cat", ""))
    output = loaded.clip_vision.encode_image(image, crop=False)
    return node("SD2UnCLIPConditioning", positive, output, 0.3, LEVEL, SEED), negative


def test_class_condition(loaded):
    image = torch.rand(1, 40, 56, 3, generator=torch.Generator().manual_seed(1))
    positive, negative = conditioned(loaded, image)
    theirs = pipeline(loaded)._encode_image(
        image=preprocess(image, loaded.clip_vision.tower.spec.image_size),
        device="cpu",
        batch_size=1,
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        noise_level=LEVEL,
        generator=torch.Generator().manual_seed(SEED),
        image_embeds=None,
    )
    ours = [class_condition("x", loaded.model.noise_augmentation, side[0][1]) for side in (negative, positive)]
    # a single picture's weight cancels; embeddings are up to 4, and float32 through the tower gives 2e-6
    assert torch.allclose(torch.cat(ours), theirs, rtol=0, atol=1e-4)
    assert not ours[0].any()
    assert ours[1].std() > 0.3


def test_unet(loaded):
    torch.manual_seed(2)
    x, t, context = torch.randn(2, 4, 8, 8), torch.tensor([981, 3]), torch.randn(2, 77, 64)
    y = torch.randn(2, loaded.model.spec.unet.vector_dim)
    theirs = diffusers_unet(loaded.model.unet)(x, t, context, class_labels=y).sample
    ours = loaded.model.unet(x, t, context, y)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-4)
    assert (loaded.model.unet(x, t, context, -y) - ours).abs().max() > 0.01


def test_ten_ddim_steps(loaded):
    image = torch.rand(1, 40, 56, 3, generator=torch.Generator().manual_seed(1))
    positive, negative = conditioned(loaded, image)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    ours = node("SD2KSampler", loaded.model, SEED, STEPS, CFG, "ddim", "ldm", positive, negative, latent)["samples"]
    theirs = pipeline(loaded)(
        image=preprocess(image, loaded.clip_vision.tower.spec.image_size),
        prompt_embeds=positive[0][0],
        negative_prompt_embeds=negative[0][0],
        height=64,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=CFG,
        noise_level=LEVEL,
        generator=torch.Generator().manual_seed(SEED),
        latents=starting_noise(torch.zeros(1, 4, 8, 8), SEED),
        output_type="latent",
    ).images
    assert theirs.std() > 0.5
    # float32 through ten steps of a random network with latents up to 31
    assert torch.allclose(ours * loaded.vae.spec.scale, theirs, rtol=0, atol=1e-3)


def test_a_folder_that_diffusers_saved_is_the_same_model(loaded, tmp_path):
    pipeline(loaded).save_pretrained(tmp_path / "saved")
    folder = load_checkpoint(tmp_path / "saved")
    assert folder.spec == loaded.model.spec
    noise, ours = folder.noise_augmentation, loaded.model.noise_augmentation
    assert torch.equal(noise.data_mean, ours.data_mean)
    assert torch.equal(noise.data_std, ours.data_std)
    assert torch.equal(noise.alphas_cumprod, ours.alphas_cumprod)
    for module, same in ((folder.image, loaded.clip_vision.tower), (folder.unet, loaded.model.unet)):
        state = same.state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())
