"""Depth to image through our nodes: the map, its conditioning, what is refused, and diffusers' pipeline beside it."""

import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_depth2img as depth2img
import pytest
import torch
from diffusers import StableDiffusionDepth2ImgPipeline
from diffusers_keys import diffusers_ddim, diffusers_unet, diffusers_vae, pipeline_of, without_noise
from helpers import call, picture, prompts, sample
from safetensors.torch import save_file
from sd2_family.pipeline import depth as depth_map
from sd2_family.samplers.noise import starting_noise
from tiny import tiny_state
from torch.nn.functional import interpolate

CFG, SEED = 5.0, 7


@pytest.fixture
def file(load):
    return load("v2-depth")


def conditioned(file, depth, width=96, height=64):
    positive, negative = prompts(file)
    return call("SD2DepthConditioning", positive=positive, negative=negative, depth=depth, width=width, height=height)


def sampled(file, sides, latent, **widgets):
    return sample(file, *sides, {"samples": latent}, seed=SEED, cfg=CFG, **widgets)["samples"]


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


def test_half_precision_files_estimate_in_float32(tiny_models, load):
    name = tiny_models.file("v2-depth", "depth-half", dtype=torch.float16).stem
    image = picture(64, 96)
    half, full = (
        call("SD2DepthEstimate", depth_model=load(name).depth_model, image=image)[0] for name in (name, "v2-depth")
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
    together = sampled(file, conditioned(file, depth), latent)
    noise = starting_noise(latent, SEED)
    assert not torch.equal(noise[0], noise[1])
    first = sampled(file, conditioned(file, depth[:1]), latent[:1])
    other = sampled(file, conditioned(file, depth[1:]), latent[:1])
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
    image = picture(64, 96)
    (depth,) = call("SD2DepthEstimate", depth_model=file.depth_model, image=image)
    positive, negative = conditioned(file, depth)
    encoded = file.vae.encode(image)
    ours = sampled(file, (positive, negative), encoded, steps=steps, denoise=strength)
    ours = ours * file.vae.spec.scale

    pipeline = pipeline_of(
        StableDiffusionDepth2ImgPipeline,
        file,
        vae=without_noise(diffusers_vae(file.vae.autoencoder, file.vae.spec)),
        scheduler=diffusers_ddim(),
        depth_estimator=None,
    )
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


def test_a_file_without_a_depth_estimator_says_what_to_load(tiny_models, load):
    state = {key: tensor for key, tensor in tiny_state("v2-depth").items() if not key.startswith("depth_model.")}
    save_file(state, tiny_models.checkpoints / "no-midas.safetensors")
    for name in ("v2-base", "no-midas"):
        with pytest.raises(ValueError, match=rf"^{name}.safetensors has no depth estimator; load 512-depth-ema"):
            call("SD2DepthEstimate", depth_model=load(name).depth_model, image=picture(64, 96))


def test_a_depth_map_on_another_model_says_which_to_load(load):
    base = load("v2-base")
    with pytest.raises(ValueError, match=r"v2-base\.safetensors is a checkpoint for .* depth map, .*512-depth-ema"):
        sampled(base, conditioned(base, picture(64, 96)), torch.zeros(1, 4, 8, 12))


@pytest.mark.parametrize("side", ["both", "positive", "negative"])
def test_a_depth_model_without_a_depth_map_says_what_is_missing(file, side):
    with_map, without = conditioned(file, picture(64, 96)), prompts(file)
    positive = without[0] if side != "negative" else with_map[0]
    negative = without[1] if side != "positive" else with_map[1]
    with pytest.raises(ValueError, match=r"without a depth map; put SD2 Depth Conditioning .*512-base-ema"):
        sampled(file, (positive, negative), torch.zeros(1, 4, 8, 12))
