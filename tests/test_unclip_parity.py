"""unCLIP through our nodes against diffusers' pipeline, on the same random weights, statistics and noise."""

import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler, StableUnCLIPImg2ImgPipeline
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from diffusers_keys import diffusers_ddim, diffusers_unet, pipeline_of, transformers_image, transformers_text
from helpers import call, empty, picture, prompts, sample
from safetensors.torch import save_file
from sd2_family.backends import backend
from sd2_family.models.checkpoint import load_checkpoint
from sd2_family.models.clip_image import preprocess
from sd2_family.pipeline.unclip import class_condition
from sd2_family.samplers.noise import starting_noise

STEPS, CFG, SEED, LEVEL = 10, 5.0, 7, 250
KINDS = ("unclip-h", "unclip-l")


@pytest.fixture(params=KINDS, scope="module")
def loaded(request, tiny_models, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "tiny.safetensors"
    shutil.copy(tiny_models.file(request.param), path)
    if request.param == "unclip-l":
        generator = torch.Generator().manual_seed(3)
        statistics = {"mean": torch.randn(48, generator=generator), "std": torch.rand(48, generator=generator) + 0.5}
        save_file(statistics, path.with_name("ViT-L-14_stats.safetensors"))
    return backend.load_checkpoint(str(path))


def pipeline(loaded):
    """diffusers' pipeline around the same weights."""
    augmentation = loaded.model.noise_augmentation
    normalizer = StableUnCLIPImageNormalizer(augmentation.dim)
    normalizer.mean.data, normalizer.std.data = augmentation.data_mean[None], augmentation.data_std[None]
    return pipeline_of(
        StableUnCLIPImg2ImgPipeline,
        loaded,
        image_encoder=transformers_image(loaded.clip_vision.tower),
        image_normalizer=normalizer,
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        text_encoder=transformers_text(loaded.clip.tower),
        scheduler=diffusers_ddim("v_prediction"),
    )


def conditioned(loaded, image):
    positive, negative = prompts(loaded)
    output = loaded.clip_vision.encode_image(image, crop=False)
    return call("SD2UnCLIPConditioning", positive, output, 0.3, LEVEL, SEED)[0], negative


def test_class_condition(loaded):
    image = picture(40, 56)
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
    image = picture(40, 56)
    positive, negative = conditioned(loaded, image)
    ours = sample(loaded, positive, negative, empty(), seed=SEED, steps=STEPS, cfg=CFG)["samples"]
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
    text = replace(loaded.model.spec.text, layers=loaded.model.spec.text.layers - 1, penultimate=False)  # one unread
    assert folder.spec == replace(loaded.model.spec, text=text)
    noise, ours = folder.noise_augmentation, loaded.model.noise_augmentation
    assert torch.equal(noise.data_mean, ours.data_mean)
    assert torch.equal(noise.data_std, ours.data_std)
    assert torch.equal(noise.alphas_cumprod, ours.alphas_cumprod)
    for module, same in ((folder.image, loaded.clip_vision.tower), (folder.unet, loaded.model.unet)):
        state = same.state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())
