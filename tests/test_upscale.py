"""The x4 upscaler: against diffusers' pipeline on the same random weights, in tiles, its colours, wrong pairings."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionUpscalePipeline
from diffusers_keys import pipeline_of
from helpers import call, prompts, sample
from sd2_family.pipeline import blend, upscale
from sd2_family.samplers.noise import starting_noise
from tiny import tiny_spec

STEPS, CFG, SEED, NOISE_SEED, LEVEL = 10, 5.0, 7, 11, 20
SCHEDULE = {"beta_start": 1e-4, "beta_end": 2e-2, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def deep(tiny_models):
    """The levels of the real one: a deepest that alone attends to itself, and sees the picture 8 times smaller."""
    spec = tiny_spec("x4")
    levels = {"channel_mult": (1, 2, 2, 4), "attention": (False, True, True, True)}
    unet = replace(spec.unet, model_channels=32, **levels, self_attention=(False, False, False, True))
    autoencoder = replace(spec.autoencoder, channels=8, channel_mult=(1, 1, 1), group_size=4)
    return tiny_models.file("x4", "x4-deep", spec=replace(spec, unet=unet, autoencoder=autoencoder)).stem


def smooth(height, width, count=1):
    """Smooth colours, everywhere alike."""
    coarse = torch.rand(count, 3, height // 8 + 2, width // 8 + 2, generator=torch.Generator().manual_seed(3))
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return fine.clamp(0, 1).movedim(1, -1)


def prepared(file, image, level=LEVEL):
    return call("SD2UpscaleConditioning", *prompts(file), image, level, NOISE_SEED)


def sampled(file, positive, negative, latent, steps=STEPS, **options):
    return sample(file, positive, negative, latent, seed=SEED, steps=steps, cfg=CFG, **options)


# against diffusers


@pytest.fixture
def pipeline(load):
    file = load("x4")
    return pipeline_of(
        StableDiffusionUpscalePipeline,
        file,
        low_res_scheduler=DDPMScheduler(**SCHEDULE),
        scheduler=DDIMScheduler(
            **SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction"
        ),
        max_noise_level=350,
    )


@pytest.mark.parametrize("level", [0, 20, 350])
def test_the_noised_picture_is_diffusers(pipeline, level):
    image = smooth(24, 40, count=2)
    ours, label = upscale.condition(upscale.options(image, level, NOISE_SEED), torch.zeros(2, 4, 24, 40))
    x = pipeline.image_processor.preprocess(image.movedim(-1, 1))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(NOISE_SEED))
    theirs = pipeline.low_res_scheduler.add_noise(x, noise, torch.tensor([level, level]))
    # diffusers has its schedule in float32, where 1 - a of the lowest level keeps four digits
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5)
    assert label.tolist() == [level, level]


@pytest.mark.parametrize("level", [20, 150])
def test_ten_ddim_steps_and_the_picture(load, pipeline, level):
    file = load("x4")
    image = smooth(24, 40)
    positive, negative, latent = prepared(file, image, level)
    samples = sampled(file, positive, negative, latent)
    (decoded,) = call("SD2VAEDecode", samples, file.vae)

    given = {
        "image": image.movedim(-1, 1),
        "prompt_embeds": positive[0][0],
        "negative_prompt_embeds": negative[0][0],
        "num_inference_steps": STEPS,
        "guidance_scale": CFG,
        "noise_level": level,
        "latents": starting_noise(latent["samples"], SEED),
    }
    generators = (torch.Generator().manual_seed(NOISE_SEED) for _ in range(2))  # they draw the picture's noise only
    theirs = pipeline(**given, generator=next(generators), output_type="latent").images
    assert theirs.std() > 0.5
    assert torch.allclose(samples["samples"] * file.vae.spec.scale, theirs, rtol=0, atol=1e-3)
    theirs = pipeline(**given, generator=next(generators), output_type="pt").images.movedim(1, -1)
    assert decoded.shape == theirs.shape == (1, 96, 160, 3)
    assert torch.allclose(decoded, theirs, rtol=0, atol=1e-3)


def test_another_noise_level_is_another_class(load):
    file = load("x4")
    positive, negative, latent = prepared(file, smooth(16, 16))
    first = sampled(file, positive, negative, latent, steps=2)["samples"]
    lowres_noise = positive[0][1]["noise_augmentation_seed"]
    assert lowres_noise == NOISE_SEED
    for key, value in (("noise_augmentation", 21 / 350), ("noise_augmentation_seed", 12)):
        sides = [[[context, {**options, key: value}] for context, options in side] for side in (positive, negative)]
        assert not torch.allclose(sampled(file, *sides, latent, steps=2)["samples"], first, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (17, 31), (20, 12)])
def test_any_size_and_a_batch(load, deep, size):
    file = load(deep)
    samples = sampled(file, *prepared(file, smooth(*size, count=2)), steps=1)
    (decoded,) = call("SD2VAEDecode", samples, file.vae)
    assert decoded.shape == (2, 4 * size[0], 4 * size[1], 3)


# tiles


def psnr(a, b):
    return float(-10 * (a - b).square().mean().log10())


@pytest.mark.parametrize(
    ("name", "steps", "least"),
    # dB; what is seen is 40 with random weights, and 30 without an overlap, 52 with the demo's
    [("x4-deep", 2, 35), pytest.param("sd2-demo-x4", STEPS, 45, marks=pytest.mark.slow)],
)
def test_tiles_agree_with_the_whole_and_show_no_seam(load, deep, monkeypatch, name, steps, least):
    file = load(name)
    given = prepared(file, smooth(200, 300))
    calls = []
    forward = file.model.unet.forward
    monkeypatch.setattr(file.model.unet, "forward", lambda x, *a: (calls.append(x.shape[2:]), forward(x, *a))[1])

    def enlarged(tile):
        monkeypatch.setattr(upscale, "TILE", tile)
        monkeypatch.setattr(upscale, "OVERLAP", tile // 4)
        samples = sample(file, *given, seed=SEED, steps=steps, cfg=1.0)
        return call("SD2VAEDecode", samples, file.vae, 256)[0]

    whole, tiles = enlarged(300), enlarged(128)
    assert calls[:steps] == [(200, 300)] * steps
    assert len(calls[steps:]) == steps * 2 * 3
    assert max(calls[steps:]) == (128, 128)
    assert whole.std() > 0.1
    assert psnr(tiles, whole) >= least
    for axis, borders in ((1, (72, 128)), (2, (96, 128, 176, 224))):  # where a tile begins or ends amid its neighbours
        in_tiles, in_whole = (steepness(shown, axis, borders) for shown in (tiles, whole))
        assert in_tiles == pytest.approx(in_whole, rel=0.05)
        if name == "x4-deep":  # alike everywhere, as the demo's pictures are not
            assert in_tiles == pytest.approx(1, abs=0.05)


def steepness(shown, axis, borders):
    """The mean step between pixels within 4 of the borders, in latent pixels, over that elsewhere."""
    gradient = shown.diff(dim=axis).abs().movedim(axis, 0).flatten(1).mean(1)
    at = torch.zeros(len(gradient), dtype=torch.bool)
    for border in borders:
        at[4 * border - 4 : 4 * border + 4] = True
    return float(gradient[at].mean() / gradient[~at].mean())


def test_tiles_begin_on_the_grid_of_the_deepest_level(monkeypatch):
    monkeypatch.setattr(upscale, "TILE", 32)
    monkeypatch.setattr(upscale, "OVERLAP", 8)
    rows, columns = torch.meshgrid(torch.arange(45.0), torch.arange(77.0), indexing="ij")
    corners = []

    def network(part):
        corners.append([int(x) for x in part[0, :, 0, 0]])
        return part

    x = torch.stack([rows, columns])[None]
    torch.testing.assert_close(upscale.in_tiles(network, x), x)
    assert corners == [[row, column] for row in (0, 16) for column in (0, 24, 48)]


def test_tiles_that_disagree_fade_into_each_other(monkeypatch):
    monkeypatch.setattr(upscale, "TILE", 32)
    monkeypatch.setattr(upscale, "OVERLAP", 8)
    levels = iter([0.0, 1.0, 0.0, 1.0])
    out = upscale.in_tiles(lambda part: torch.full_like(part, next(levels)), torch.zeros(1, 1, 32, 100))
    assert out.min() == 0
    assert out.max() == 1
    assert out.diff(dim=3).abs().max() < 1 / 8


def test_what_is_held_at_once_does_not_grow():
    assert upscale.largest_part([2, 7, 200, 300]) == [2, 7, 200, 300]
    assert upscale.largest_part([2, 7, 4000, 3000]) == upscale.largest_part([2, 7, 400, 300]) == [2, 7, 256, 256]


# colours


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.1), (0.6, 0.0), (1.5, -0.2), (0.0, 1.0)])
def test_the_mean_colour_is_kept(gain, offset):
    reference = smooth(50, 75, count=2) * torch.tensor([1.0, 0.5, 0.02])
    image = (smooth(200, 300, count=2) * gain + offset).clamp(0, 1)
    (matched,) = call("SD2ColorMatch", image, reference)
    assert matched.min() >= 0
    assert matched.max() <= 1
    difference = (matched.mean((1, 2)) - reference.mean((1, 2))).abs()
    assert difference.max() < 1 / 255
    assert (image.mean((1, 2)) - reference.mean((1, 2))).abs().max() > 10 / 255
    assert call("SD2ColorMatch", image, reference, False)[0] is image


def test_one_reference_serves_a_batch():
    image = smooth(20, 30, count=3)
    matched = blend.match_mean(image, smooth(5, 5))
    assert torch.equal(call("SD2ColorMatch", image, smooth(5, 5))[0], matched)


# wrong pairings


def test_an_upscaler_without_its_conditioning(load):
    file = load("x4")
    sides = prompts(file)
    with pytest.raises(
        ValueError,
        match=r"x4\.safetensors is a checkpoint for .* without an image to upscale.*SD2 Upscale Conditioning",
    ):
        sampled(file, *sides, {"samples": torch.zeros(1, 4, 8, 8)})
    positive, _, latent = prepared(file, smooth(8, 8))
    with pytest.raises(ValueError, match="without an image to upscale"):
        sampled(file, positive, sides[1], latent)


@pytest.mark.parametrize("kind", ["v2-base", "v2-inpaint"])
def test_upscale_conditioning_on_another_model(load, kind):
    file = load(kind)
    with pytest.raises(
        ValueError, match=rf"{kind}\.safetensors is .*needs a checkpoint of kind x4 \(x4-upscaler-ema\)"
    ):
        sampled(file, *prepared(file, smooth(8, 8)))


def test_inpainting_conditioning_on_an_upscaler(load):
    file = load("x4")
    positive, negative, _ = prepared(file, smooth(16, 16))
    *sides, latent = call(
        "SD2VAEEncodeForInpaint", positive, negative, file.vae, smooth(64, 64), torch.ones(1, 64, 64)
    )
    with pytest.raises(ValueError, match=r"needs a checkpoint of kind .*v2-inpaint"):
        sampled(file, *sides, latent)


def test_a_latent_of_another_autoencoder(load):
    file = load("x4")
    positive, negative, _ = prepared(file, smooth(16, 32))
    latent = {"samples": load("v2-base").vae.encode(smooth(64, 128))}
    with pytest.raises(ValueError, match=r"image of 32 x 16 .*this one is 16 x 8; .* vae of x4\.safetensors"):
        sampled(file, positive, negative, latent)


def test_another_autoencoder_is_named_before_sampling(load):
    file = load("x4")
    prompt = {
        "1": {"class_type": "SD2CheckpointLoader", "inputs": {"ckpt_name": "x4.safetensors"}},
        "2": {"class_type": "SD2CheckpointLoader", "inputs": {"ckpt_name": "v2-base.safetensors"}},
        "3": {"class_type": "SD2KSampler", "inputs": {"model": ["1", 0]}},
        "4": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["2", 2]}},
    }
    given = prepared(file, smooth(8, 8))
    sentence = r"vae of v2-base\.safetensors, .* at 8x, .* x4\.safetensors need 4x; connect the vae of x4\.safetensors"
    with pytest.raises(ValueError, match=sentence):
        sampled(file, *given, prompt=prompt, unique_id="3")
    prompt["4"]["inputs"]["vae"] = ["1", 2]
    sampled(file, *given, steps=1, prompt=prompt, unique_id="3")


def test_another_autoencoder_is_named_when_decoding(load):
    latent = prepared(load("x4"), smooth(8, 8))[2]
    with pytest.raises(ValueError, match=r"decodes at 4x, but this one decodes at 8x; connect the vae"):
        call("SD2VAEDecode", latent, load("v2-base").vae)
