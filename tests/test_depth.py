"""Depth to image through our nodes: the map, its conditioning, what is refused, and diffusers' pipeline beside it."""

from functools import cache

import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_depth2img as depth2img
import pytest
import torch
from diffusers import StableDiffusionDepth2ImgPipeline
from diffusers_keys import diffusers_ddim, diffusers_unet, diffusers_vae, without_noise
from safetensors.torch import save_file
from sd2_family import NODE_CLASS_MAPPINGS
from sd2_family.backends import backend
from sd2_family.pipeline import depth as depth_map
from sd2_family.samplers.noise import starting_noise
from tiny import tiny_state, write_checkpoint
from torch.nn.functional import interpolate

CFG, SEED = 5.0, 7


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    (root / "checkpoints").mkdir()
    for kind in ("v2-depth", "v2-base"):
        write_checkpoint(root / "checkpoints" / f"{kind}.safetensors", kind)
    state = {key: tensor for key, tensor in tiny_state("v2-depth").items() if not key.startswith("depth_model.")}
    save_file(state, root / "checkpoints" / "no-midas.safetensors")
    return root


@pytest.fixture(scope="module")
def load(models):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SD2_MODELS_DIR", str(models))
        yield cache(lambda name: backend.load_checkpoint(f"{name}.safetensors"))


@pytest.fixture(scope="module")
def file(load):
    return load("v2-depth")


def call(node, **inputs):
    return getattr(NODE_CLASS_MAPPINGS[node](), NODE_CLASS_MAPPINGS[node].FUNCTION)(**inputs)


def picture(height=64, width=96, count=1):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(height + width))


def prompts(file):
    return tuple(call("SD2CLIPTextEncode", clip=file.clip, text=text)[0] for text in ("a (red:1.2) cat", ""))


def conditioned(file, depth, width=96, height=64):
    positive, negative = prompts(file)
    return call("SD2DepthConditioning", positive=positive, negative=negative, depth=depth, width=width, height=height)


def sample(file, positive, negative, latent, **widgets):
    widgets = {"steps": 2, "cfg": CFG, "sampler_name": "ddim", "scheduler": "ldm", "denoise": 1.0} | widgets
    sampler = {"model": file.model, "seed": SEED, "positive": positive, "negative": negative}
    return call("SD2KSampler", **sampler, latent_image={"samples": latent}, **widgets)[0]["samples"]


def reference(depth, height, width):
    """The authors' conditioning from raw depth [B, h, w], line by line."""
    cc = interpolate(depth[:, None], size=(height, width), mode="bicubic", align_corners=False)
    least, greatest = cc.amin((1, 2, 3), keepdim=True), cc.amax((1, 2, 3), keepdim=True)
    return 2.0 * (cc - least) / (greatest - least) - 1.0


# the map


def test_the_map_is_the_networks_depth_from_0_to_1(file):
    image = picture(64, 64, count=2)  # a size at which nothing is resized
    (depth,) = call("SD2DepthEstimate", depth_model=file.depth_model, image=image)
    with torch.no_grad():
        raw = file.depth_model.network(image.movedim(-1, 1) * 2 - 1)
    for shown, want in zip(depth, raw, strict=True):
        want = (want - want.min()) / (want.max() - want.min())
        torch.testing.assert_close(shown, want[..., None].expand(-1, -1, 3), rtol=0, atol=1e-5)
        assert (shown.min(), shown.max()) == (0, 1)


def test_half_precision_files_estimate_in_float32(models, load):
    write_checkpoint(models / "checkpoints" / "half.safetensors", "v2-depth", dtype=torch.float16)
    image = picture()
    half, full = (
        call("SD2DepthEstimate", depth_model=load(name).depth_model, image=image)[0] for name in ("half", "v2-depth")
    )
    assert half.dtype == torch.float32
    assert (half - full).abs().max() < 0.02  # the weights were rounded to 11 bits


def test_conditioning_is_the_authors(file):
    """From the raw depth, though ours travels as a picture from 0 to 1."""
    image = picture(100, 150)
    (depth,) = call("SD2DepthEstimate", depth_model=file.depth_model, image=image)
    raw = file.depth_model.estimate(image)
    for _, options in (entry for side in conditioned(file, depth, width=160, height=112) for entry in side):
        torch.testing.assert_close(options["concat_depth"], reference(raw, 14, 20), rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_maps_from_elsewhere_may_have_any_size_contrast_and_channels(file, channels):
    depth = 0.3 + 0.2 * torch.rand(1, 37, 53, 1).repeat(1, 1, 1, channels)
    positive, _ = conditioned(file, depth)
    torch.testing.assert_close(positive[0][1]["concat_depth"], reference(depth[..., 0], 8, 12), rtol=0, atol=1e-5)


def test_a_flat_map_is_no_division_by_zero(file):
    positive, _ = conditioned(file, torch.full((1, 64, 64, 3), 0.5))
    assert (positive[0][1]["concat_depth"] == -1).all()


def test_a_map_for_another_size_is_stretched_when_sampling():
    depth = reference(torch.rand(1, 24, 24), 16, 16)
    fitted = depth_map.channel({"concat_depth": depth}, torch.zeros(3, 4, 8, 12))
    torch.testing.assert_close(fitted, reference(depth[:, 0], 8, 12).repeat(3, 1, 1, 1), rtol=0, atol=1e-6)
    same = depth_map.channel({"concat_depth": depth}, torch.zeros(1, 4, 16, 16))
    torch.testing.assert_close(same, depth, rtol=0, atol=1e-6)


def test_every_picture_of_a_batch_is_guided_by_its_own_map(file):
    depth, latent = torch.rand(2, 64, 96, 3), torch.zeros(2, 4, 8, 12)
    together = sample(file, *conditioned(file, depth), latent)
    noise = starting_noise(latent, SEED)
    assert not torch.equal(noise[0], noise[1])
    first = sample(file, *conditioned(file, depth[:1]), latent[:1])
    other = sample(file, *conditioned(file, depth[1:]), latent[:1])
    torch.testing.assert_close(together[:1], first, rtol=0, atol=1e-3)
    assert (other - first).abs().max() > 0.1  # the map has an effect


# diffusers


def test_unet_with_a_depth_map(file):
    generator = torch.Generator().manual_seed(2)
    x, context = torch.randn(2, 5, 8, 12, generator=generator), torch.randn(2, 77, 64, generator=generator)
    t = torch.tensor([1.0, 801.0])
    with torch.no_grad():
        ours, theirs = file.model.unet(x, t, context), diffusers_unet(file.model.unet)(x, t, context).sample
    assert theirs.std() > 0.3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("steps", "strength"), [(20, 0.5), (12, 0.9)])
def test_ten_ddim_steps_from_a_picture(monkeypatch, file, steps, strength):
    """strength and denoise mean the same: int(strength * steps) steps, from the picture noised to the first one."""
    image = picture()
    (depth,) = call("SD2DepthEstimate", depth_model=file.depth_model, image=image)
    positive, negative = conditioned(file, depth)
    encoded = file.vae.encode(image)
    ours = sample(file, positive, negative, encoded, steps=steps, denoise=strength) * file.vae.spec.scale

    unet = diffusers_unet(file.model.unet)
    unet.register_to_config(sample_size=64)  # the pipeline wants a number, and uses none
    pipeline = StableDiffusionDepth2ImgPipeline(
        vae=without_noise(diffusers_vae(file.vae.autoencoder, file.vae.spec)),
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=diffusers_ddim(),
        depth_estimator=None,
        feature_extractor=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(depth2img, "randn_tensor", lambda shape, **_: starting_noise(torch.zeros(shape), SEED))
    theirs = pipeline(
        image=image.movedim(-1, 1),
        depth_map=file.depth_model.estimate(image),
        prompt_embeds=positive[0][0],
        negative_prompt_embeds=negative[0][0],
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=CFG,
        output_type="latent",
    ).images
    assert theirs.std() > 0.5
    assert (ours - encoded * file.vae.spec.scale).abs().max() > 1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


# what does not belong together


def test_a_file_without_a_depth_estimator_says_what_to_load(load):
    for name in ("v2-base", "no-midas"):
        with pytest.raises(ValueError, match=rf"^{name}.safetensors has no depth estimator; load 512-depth-ema"):
            call("SD2DepthEstimate", depth_model=load(name).depth_model, image=picture())


def test_a_depth_map_on_another_model_says_which_to_load(load):
    base = load("v2-base")
    with pytest.raises(ValueError, match=r"v2-base\.safetensors is a checkpoint for .* depth map, .*512-depth-ema"):
        sample(base, *conditioned(base, picture()), torch.zeros(1, 4, 8, 12))


@pytest.mark.parametrize("side", ["both", "positive", "negative"])
def test_a_depth_model_without_a_depth_map_says_what_is_missing(file, side):
    with_map, without = conditioned(file, picture()), prompts(file)
    positive = without[0] if side != "negative" else with_map[0]
    negative = without[1] if side != "positive" else with_map[1]
    with pytest.raises(ValueError, match=r"without a depth map; put SD2 Depth Conditioning .*512-base-ema"):
        sample(file, positive, negative, torch.zeros(1, 4, 8, 12))
