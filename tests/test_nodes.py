"""The nodes: their contract with ComfyUI, and what they do with a tiny checkpoint."""

import inspect
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import call, declared, empty, loaded, picture, prompts, sample
from PIL import Image
from pointwise import pointwise
from sd2_family import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from sd2_family.backends import backend, folders
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.models.specs import SPECS
from sd2_family.nodes import sample_image
from sd2_family.pipeline import components, images
from sd2_family.pipeline.denoiser import guided_denoiser
from sd2_family.pipeline.progress import reporting
from sd2_family.pipeline.tiling import tiled
from sd2_family.samplers import keep_unmasked
from sd2_family.samplers.noise import starting_noise, step_noise

WIDGETS = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
# saved workflows hold widget values by position: what stands here never changes, it only grows at the end
INPUTS = {
    "SD2CheckpointLoader": "ckpt_name prediction dtype",
    "SD2CLIPTextEncode": "clip text",
    "SD2MaskPreprocess": "mask threshold grow blur fill_holes invert image high_pass stabilize",
    "SD2MaskExtend": "mask left top right bottom",
    "SD2VAEEncodeForInpaint": "positive negative vae image mask fill keep_unmasked",
    "SD2UnCLIPConditioning": "conditioning clip_vision_output weight noise_level seed mix_noise_level",
    "SD2LoadImageEmbedding": "file",
    "SD2KSampler": "model seed steps cfg sampler_name scheduler positive negative latent_image denoise "
    "eta cfg_rescale inner_steps",
    "SD2Sampler": "sampler_name eta inner_steps",
    "SD2Scheduler": "model scheduler steps denoise",
    "SD2VAEDecode": "samples vae tile_size",
    "SD2Composite": "original generated mask color_match blend",
    "SD2InpaintCrop": "image mask context target_width target_height multiple_of context_pixels holes model "
    "context_mask blend_mask",
    "SD2InpaintStitch": "stitch image color_match blend",
    "SD2DepthEstimate": "depth_model image",
    "SD2DepthConditioning": "positive negative depth width height",
    "SD2SampleImage": "name image mask",
    "SD2RandomMask": "width height seed coverage kind",
    "SD2UpscaleConditioning": "positive negative image noise_level seed",
    "SD2ColorMatch": "image reference enabled",
    "SD2Watermark": "image text",
    "SD2ReadWatermark": "image length",
}
OUTPUTS = {
    "SD2CheckpointLoader": "MODEL CLIP VAE CLIP_VISION SD2_DEPTH_MODEL STRING",
    "SD2CLIPTextEncode": "CONDITIONING",
    "SD2MaskPreprocess": "MASK MASK",
    "SD2MaskExtend": "MASK",
    "SD2VAEEncodeForInpaint": "CONDITIONING CONDITIONING LATENT",
    "SD2UnCLIPConditioning": "CONDITIONING",
    "SD2LoadImageEmbedding": "CLIP_VISION_OUTPUT",
    "SD2KSampler": "LATENT",
    "SD2Sampler": "SAMPLER",
    "SD2Scheduler": "SIGMAS",
    "SD2VAEDecode": "IMAGE",
    "SD2Composite": "IMAGE",
    "SD2InpaintCrop": "IMAGE MASK SD2_STITCH",
    "SD2InpaintStitch": "IMAGE",
    "SD2DepthEstimate": "IMAGE",
    "SD2DepthConditioning": "CONDITIONING CONDITIONING",
    "SD2SampleImage": "IMAGE MASK",
    "SD2RandomMask": "MASK",
    "SD2UpscaleConditioning": "CONDITIONING CONDITIONING LATENT",
    "SD2ColorMatch": "IMAGE",
    "SD2Watermark": "IMAGE",
    "SD2ReadWatermark": "STRING",
}


@pytest.fixture
def models(tiny_models, monkeypatch):
    """The models folder, with a file in a folder inside."""
    monkeypatch.setenv("SD2_MODELS_DIR", str(tiny_models.root))
    tiny_models.file("v2-inpaint", "sub/half", dtype=torch.float16)
    return tiny_models.root


@pytest.fixture
def inpaint(load):
    return load("v2-inpaint")


def box(height=64, width=64, count=1):
    mask = torch.zeros(count, height, width)
    mask[:, height // 4 : height // 2, width // 3 : width // 2] = 1
    return mask


# the contract


@pytest.mark.parametrize("node", INPUTS)
def test_ids_inputs_and_outputs(node):
    assert " ".join(declared(node)) == INPUTS[node]
    assert " ".join(NODE_CLASS_MAPPINGS[node].RETURN_TYPES) == OUTPUTS[node]


def test_every_node_is_listed():
    assert set(NODE_CLASS_MAPPINGS) == set(NODE_DISPLAY_NAME_MAPPINGS) == set(INPUTS)


@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS)
def test_classes_are_well_formed(node):
    node_class = NODE_CLASS_MAPPINGS[node]
    assert node_class.__name__ == node
    assert node_class.CATEGORY.startswith("SD2/")
    assert node_class.DESCRIPTION
    assert node_class.SEARCH_ALIASES
    assert len(node_class.RETURN_TYPES) == len(node_class.RETURN_NAMES) == len(node_class.OUTPUT_TOOLTIPS)
    parameters = [*inspect.signature(getattr(node_class, node_class.FUNCTION)).parameters.values()][1:]
    hidden = node_class.INPUT_TYPES().get("hidden", {})
    assert {parameter.name for parameter in parameters} == {*declared(node), *hidden}
    for name in node_class.INPUT_TYPES().get("optional", {}):
        assert next(p for p in parameters if p.name == name).default is not inspect.Parameter.empty


@pytest.mark.parametrize(("node", "name"), [(node, name) for node in NODE_CLASS_MAPPINGS for name in declared(node)])
def test_inputs_are_well_formed(node, name):
    kind, options = declared(node)[name]
    assert options["tooltip"]
    if isinstance(kind, list):
        assert len(set(kind)) == len(kind)
        assert options.get("default", kind[0] if kind else None) in (kind or [None])
    elif kind in WIDGETS:
        assert type(options["default"]) is WIDGETS[kind]
        assert (
            options.get("min", -np.inf) <= options["default"] <= options.get("max", np.inf) if kind != "STRING" else 1
        )
    parameter = inspect.signature(getattr(NODE_CLASS_MAPPINGS[node], NODE_CLASS_MAPPINGS[node].FUNCTION)).parameters[
        name
    ]
    if parameter.default not in (inspect.Parameter.empty, None):
        assert parameter.default == options["default"]


@pytest.mark.cosmetics
@pytest.mark.parametrize("node", NODE_CLASS_MAPPINGS)
def test_tooltips_are_sentences(node):
    assert all(options["tooltip"].endswith(".") for _, options in declared(node).values())


# end to end


@pytest.mark.parametrize("fill", list(images.FILLS))
@pytest.mark.parametrize("size", [(64, 64), (61, 75), (40, 8), (3, 90)])
def test_inpainting_keeps_size_and_everything_outside_the_mask(inpaint, fill, size):
    image, mask = picture(*size), box(*size)
    mask[:, 0, 0] = 1
    mask, blend = call("SD2MaskPreprocess", mask, blur=3, image=image)
    prepared = call("SD2VAEEncodeForInpaint", *prompts(inpaint), inpaint.vae, image, mask, fill, True)
    latent = sample(inpaint, *prepared, denoise=0.7)
    (generated,) = call("SD2VAEDecode", latent, inpaint.vae, 0)
    assert generated.shape == image.shape
    for color_match in (False, True):
        for kind in ("membrane", "feather", "none"):
            (result,) = call("SD2Composite", image, generated, blend, color_match, kind)
            assert torch.equal(result[mask == 0], image[mask == 0])
            assert not torch.equal(result[mask == 1], image[mask == 1])
            if kind == "none" and not color_match:
                assert torch.equal(result[mask == 1], generated[mask == 1])


def test_half_precision_images(inpaint):
    image, mask = picture().half(), box().half()
    mask, blend = call("SD2MaskPreprocess", mask, image=image)
    *conditioning, latent = call("SD2VAEEncodeForInpaint", *prompts(inpaint), inpaint.vae, image, mask, "grey", True)
    assert latent["samples"].dtype == conditioning[0][0][1]["concat_mask"].dtype == torch.float32
    (result,) = call("SD2Composite", image, picture().half(), blend, False)
    assert torch.equal(result[blend == 0], image.float()[blend == 0])


def test_what_the_conditioning_carries(inpaint):
    image, mask = picture(), box()
    positive, negative, latent = call("SD2VAEEncodeForInpaint", *prompts(inpaint), inpaint.vae, image, mask)
    masked = torch.where(mask[..., None] < 0.5, image * 2 - 1, 0.0).movedim(-1, 1)  # the reference's make_batch_sd
    for side in (positive, negative):
        values = side[0][1]
        assert set(values) == {"concat_latent_image", "concat_mask"}
        assert torch.allclose(values["concat_latent_image"], inpaint.vae.autoencoder.encode(masked), atol=1e-5)
        assert values["concat_mask"].shape == (1, 1, 8, 8)
    assert torch.equal(latent["samples"], inpaint.vae.encode(image))
    assert torch.equal(latent["noise_mask"], positive[0][1]["concat_mask"])
    assert (
        "noise_mask"
        not in call(
            "SD2VAEEncodeForInpaint", *prompts(inpaint), inpaint.vae, image, mask, "grey", keep_unmasked=False
        )[2]
    )


@pytest.mark.parametrize(("images", "given", "count"), [(1, 3, 3), (2, 1, 2), (2, 3, 2), (3, 2, 3)])
def test_batches_of_images_and_masks(inpaint, images, given, count):
    prepared = call("SD2VAEEncodeForInpaint", *prompts(inpaint), inpaint.vae, picture(count=images), box(count=given))
    latent = sample(inpaint, *prepared)
    assert latent["samples"].shape == (count, 4, 8, 8)
    (generated,) = call("SD2VAEDecode", latent, inpaint.vae)
    assert call("SD2Composite", picture(count=images), generated, box(count=given))[0].shape[0] == max(images, given)


@pytest.mark.parametrize("mask", [torch.zeros(1, 64, 64), torch.zeros(1, 50, 60), torch.full((1, 50, 60), 0.4)])
@pytest.mark.parametrize("keep_unmasked", [False, True])
def test_an_empty_mask_gives_the_input_and_says_so(inpaint, caplog, mask, keep_unmasked):
    image = picture(50, 60)
    prepared = call(
        "SD2VAEEncodeForInpaint", *prompts(inpaint), inpaint.vae, image, mask, "noise", keep_unmasked=keep_unmasked
    )
    assert len(caplog.messages) == 1
    assert "so nothing is repainted" in caplog.messages[0]
    latent = sample(inpaint, *prepared)
    assert torch.equal(latent["samples"], prepared[2]["samples"])
    (generated,) = call("SD2VAEDecode", latent, inpaint.vae)
    mask, blend = call("SD2MaskPreprocess", mask, image=image, grow=4, blur=4)
    assert torch.equal(call("SD2Composite", image, generated, blend)[0], image)


def test_a_file_of_half_precision_computes_in_float32_on_a_cpu(models, load, inpaint):
    half = load("sub/half")
    assert half.model.unet.dtype == torch.float16  # until it is needed
    outputs = [
        sample(file, *call("SD2VAEEncodeForInpaint", *prompts(file), file.vae, picture(), box()))["samples"]
        for file in (half, inpaint)
    ]
    assert outputs[0].dtype == torch.float32
    # float16 weights have 11 bits, and the latents here reach 40
    assert torch.allclose(*outputs, rtol=0.02, atol=0.5)


# sampling


def test_starting_noise_is_comfyuis():
    latent = torch.zeros(3, 4, 8, 8)
    assert torch.equal(starting_noise(latent, 9), torch.randn(3, 4, 8, 8, generator=torch.manual_seed(9)))
    generator = torch.manual_seed(9)
    draws = [torch.randn(1, 4, 8, 8, generator=generator) for _ in range(4)]
    assert torch.equal(starting_noise(latent, 9, [3, 0, 3]), torch.cat([draws[3], draws[0], draws[3]]))
    assert not torch.equal(step_noise(latent, 9)(), starting_noise(latent, 9))


def test_batch_index_gives_the_picture_of_the_batch(load):
    file = load("v2-base")
    batch = sample(file, *prompts(file), {"samples": torch.zeros(3, 4, 8, 8), "batch_index": [0, 1, 2]})
    single = sample(file, *prompts(file), {"samples": torch.zeros(1, 4, 8, 8), "batch_index": [2]})
    assert torch.allclose(single["samples"], batch["samples"][2:], rtol=1e-4, atol=1e-3)  # other kernels, other sums


def test_a_whole_run_ignores_the_latent_and_a_partial_one_does_not(load):
    file = load("v2-base")
    latents = [{"samples": x} for x in (torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8))]
    whole = [sample(file, *prompts(file), latent)["samples"] for latent in latents]
    part = [sample(file, *prompts(file), latent, denoise=0.5)["samples"] for latent in latents]
    none = [sample(file, *prompts(file), latent, denoise=0.0)["samples"] for latent in latents]
    assert torch.equal(*whole)
    assert not torch.allclose(*part)
    assert torch.equal(none[1], latents[1]["samples"])


@pytest.mark.parametrize(
    ("sampler_name", "scheduler"), [("ddim", "ldm"), ("dpmpp_2m", "karras"), ("uni_pc", "simple")]
)
def test_masked_sampling_holds_the_rest(load, sampler_name, scheduler):
    file = load("v2-v")  # a text-to-image model: masked image-to-image
    latent = {"samples": torch.randn(1, 4, 8, 8, generator=torch.manual_seed(0)), "noise_mask": box(), "mine": 1}
    result = sample(file, *prompts(file), latent, sampler_name=sampler_name, scheduler=scheduler, denoise=0.6, steps=3)
    kept = (torch.nn.functional.max_pool2d(box(), 8)[:, None] == 0).expand(1, 4, 8, 8)
    assert torch.allclose(result["samples"][kept], latent["samples"][kept], atol=1e-5)
    assert not torch.allclose(result["samples"][~kept], latent["samples"][~kept], atol=0.1)
    assert result["mine"] == 1
    assert result["noise_mask"] is latent["noise_mask"]


def test_the_kept_part_follows_the_noise_level():
    x, latent, noise = torch.randn(3, 2, 4, 8, 8, generator=torch.manual_seed(0))
    mask = torch.rand(2, 1, 8, 8, generator=torch.manual_seed(1))  # soft: both sides count
    seen = []
    masked = keep_unmasked(lambda x, sigma: seen.append(x) or x * sigma, latent, noise, mask)
    result = masked(x, 3.0)
    expected = x * mask + (latent + 3 * noise) * (1 - mask)  # ComfyUI's KSamplerX0Inpaint
    assert torch.allclose(seen[0], expected, atol=1e-5)
    assert torch.allclose(result, 3 * expected * mask + latent * (1 - mask), atol=1e-5)


def test_eta_and_seed_change_the_picture(load):
    file = load("v2-base")
    latent = empty()
    first, again, other, noisy, plms = (
        sample(file, *prompts(file), latent, **widgets)["samples"]
        for widgets in ({}, {}, {"seed": 6}, {"eta": 1.0}, {"sampler_name": "plms", "eta": 1.0})
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, noisy)
    assert plms.isfinite().all()


def test_cfg_one_ignores_the_negative_side(load):
    file = load("v2-base")
    positive, negative = prompts(file)
    latent = empty()
    one = sample(file, positive, negative, latent, cfg=1.0)["samples"]
    assert torch.equal(one, sample(file, positive, positive, latent, cfg=1.0)["samples"])
    # guided by itself, a prompt is what it is without guidance; a larger batch sums in another order
    assert torch.allclose(one, sample(file, positive, positive, latent, cfg=6.0)["samples"], rtol=1e-3, atol=1e-2)


def test_prompts_of_different_length_share_a_call(load):
    file = load("v2-base")
    long = call("SD2CLIPTextEncode", file.clip, "many words " * 60)[0]
    short = prompts(file)[1]
    assert long[0][0].shape[1] > short[0][0].shape[1] == 77
    latent = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(0))
    together = guided_denoiser(file.model, long, short, latent, None, scale=3.0, phi=0.0, seed=0)(latent, 2.0)
    sides = [
        guided_denoiser(file.model, side, side, latent, None, scale=1.0, phi=0.0, seed=0)(latent, 2.0)
        for side in (long, short)
    ]
    assert torch.allclose(together, sides[1] + 3 * (sides[0] - sides[1]), rtol=1e-4, atol=1e-4)  # float32 sums


def test_combined_prompts_are_averaged_by_strength(load):
    file = load("v2-base")
    (first,), (second,) = prompts(file)
    latent = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(0))

    def x0(*entries):
        return guided_denoiser(file.model, list(entries), [], latent, None, scale=1.0, phi=0.0, seed=0)(latent, 2.0)

    mixed = x0([first[0], {"strength": 3.0}], second)
    assert torch.allclose(mixed, 0.75 * x0(first) + 0.25 * x0(second), rtol=1e-4, atol=1e-4)  # float32 sums


def test_an_inpainting_model_without_inpainting_conditioning_sees_one_grey_everywhere(inpaint):
    """ComfyUI's rule: the latent of a grey picture's middle, constant, with a mask of ones."""
    sides = prompts(inpaint)
    empty = {"samples": torch.zeros(1, 4, 8, 16)}
    grey = inpaint.vae.encode(torch.full((1, 64, 64, 3), 0.5))[:, :, 2:-2, 2:-2].mean((2, 3), keepdim=True)
    given = {"concat_latent_image": grey.expand(1, 4, 8, 16), "concat_mask": torch.ones(1, 1, 64, 128)}
    expected = sample(inpaint, *([[context, given]] for ((context, _),) in sides), empty)["samples"]
    assert torch.allclose(sample(inpaint, *sides, empty)["samples"], expected, atol=1e-5)


def test_the_grey_of_the_published_autoencoder_is_comfyuis_constant():
    from sd2_family.pipeline.inpaint import gray_latent

    grey = gray_latent(SPECS["v1-inpaint"], encode=lambda pixels: pytest.fail("it is known"))
    assert grey.flatten().tolist() == pytest.approx([0.8223, -0.6876, 0.6364, 0.138])


def stock_sample(file, sides, latent, **values):
    widgets = {"seed": 3, "steps": 3, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return STOCK["KSampler"]().sample(file.model, *sides, latent, **{**widgets, **values})[0]["samples"]


@pytest.mark.parametrize(("denoise", "sampler"), [(1.0, "heun"), (0.6, "dpmpp_2m")])
def test_stock_sampler_agrees_with_ours_where_both_start_alike(load, denoise, sampler):
    file = load("v2-v")
    latent = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(0)) if denoise < 1 else torch.zeros(1, 4, 8, 8)
    values = {"seed": 3, "steps": 3, "cfg": 4.0, "sampler_name": sampler, "scheduler": "normal", "denoise": denoise}
    ours = sample(file, *prompts(file), {"samples": latent}, **values)["samples"]
    theirs = stock_sample(file, prompts(file), {"samples": latent}, **values)
    assert torch.allclose(theirs, ours, rtol=1e-4, atol=1e-3)  # float32 noise levels, latents of about 10


def test_stock_sampler_adds_the_latent_to_a_whole_run_and_ours_does_not(load):
    file = load("v2-base")
    full, empty = ({"samples": 9 * value} for value in (torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)))
    values = {"steps": 2, "sampler_name": "euler", "scheduler": "normal"}
    assert torch.equal(*(sample(file, *prompts(file), latent, **values)["samples"] for latent in (full, empty)))
    assert not torch.allclose(*(stock_sample(file, prompts(file), latent, steps=2) for latent in (full, empty)))


def test_stock_ddim_is_euler_that_holds_what_is_kept_at_other_noise(load):
    file = load("v2-base")
    latent = {"samples": torch.ones(1, 4, 8, 8)}
    masked = {**latent, "noise_mask": torch.ones(1, 1, 64, 32).cumsum(2) / 64}
    ddim, euler = (
        [stock_sample(file, prompts(file), one, sampler_name=name) for one in (latent, masked)]
        for name in ("ddim", "euler")
    )
    assert torch.equal(ddim[0], euler[0])
    assert not torch.allclose(ddim[1], euler[1], atol=1e-3)


def test_progress_is_reported(load):
    file = load("v2-base")
    heard = []
    with reporting(lambda done, total: heard.append((done, total))):
        sample(file, *prompts(file), empty(), steps=4)
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


# decoding


def test_tiles_blend_without_seams():
    def smooth(x):  # each output pixel from its own input pixel only: tiles must not show at all
        return torch.nn.functional.interpolate(x.sin(), scale_factor=2, mode="nearest")

    x = torch.randn(2, 3, 37, 50)
    seen = []
    out = tiled(smooth, x, tile=(16, 24), overlap=4, scale=2, progress=lambda done, total: seen.append((done, total)))
    assert torch.allclose(out, smooth(x), atol=1e-6)
    assert seen[-1] == (len(seen), len(seen))


def test_tiles_lie_where_the_whole_has_them(inpaint):
    """With an autoencoder that sees one place at a time, tiles are the whole, to the sums of their weights."""
    vae = replace(inpaint.vae, autoencoder=pointwise(inpaint.vae.autoencoder))
    image = picture(96, 128)
    latent = vae.encode(image)
    assert min(latent.std(2).min(), latent.std(3).min()) > 0.01  # every row and column differs within itself
    torch.testing.assert_close(vae.encode_tiled(image, tile_x=64, tile_y=48, overlap=16), latent, rtol=1e-5, atol=1e-5)
    whole = vae.decode(latent)
    assert min(whole.std(1).min(), whole.std(2).min()) > 0.01
    torch.testing.assert_close(vae.decode_tiled(latent, tile_x=8, tile_y=6, overlap=2), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(call("SD2VAEDecode", {"samples": latent}, vae, 64)[0], whole, rtol=0, atol=1e-5)


def test_a_tile_is_what_the_autoencoder_makes_of_it_alone(inpaint, monkeypatch):
    """Norms and attention see a tile and not the picture; in the outermost corners no neighbour fades in."""
    vae, image = inpaint.vae, picture(96, 128)
    latent, tiles = vae.encode(image), vae.encode_tiled(image, tile_x=64, tile_y=48, overlap=16)
    decoded = vae.decode_tiled(latent, tile_x=8, tile_y=6, overlap=2)
    first, last = (slice(0, 2), slice(0, 6), slice(0, 8)), (slice(-2, None), slice(6, 12), slice(8, 16))
    for corner, rows, columns in (first, last):
        alone = vae.encode(image[:, pixels(rows), pixels(columns)])[:, :, corner, corner]
        torch.testing.assert_close(tiles[:, :, corner, corner], alone, rtol=0, atol=1e-4)
        alone = vae.decode(latent[:, :, rows, columns])[:, pixels(corner), pixels(corner)]
        torch.testing.assert_close(decoded[:, pixels(corner), pixels(corner)], alone, rtol=0, atol=1e-5)
    monkeypatch.setattr(components, "LARGE", 64 * 64)
    assert torch.equal(vae.encode(image), vae.encode_tiled(image))


def pixels(part):
    return slice(8 * part.start, part.stop and 8 * part.stop)


def test_a_resized_latent_is_not_cut(inpaint):
    latent = {"samples": torch.zeros(1, 4, 16, 16), "sd2_size": (60, 60)}
    assert call("SD2VAEDecode", latent, inpaint.vae)[0].shape == (1, 128, 128, 3)


# pictures


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9])
def test_padding_reflects(length):
    x = torch.arange(length).float().view(1, length, 1, 1).expand(1, length, 8, 1)
    padded = images.pad(x, 8)[0, :, 0, 0].numpy()
    assert (padded == np.pad(np.arange(length), (0, -length % 8), mode="reflect")).all()


def test_surroundings_continue_a_gradient():
    ramp = torch.linspace(0, 1, 64).view(1, 1, 64, 1).expand(1, 64, 64, 3)
    hole = torch.zeros(1, 64, 64, dtype=torch.bool)
    hole[:, 24:40, 24:40] = True
    filled = images.fill_surroundings(ramp, hole)
    assert torch.equal(filled[~hole], ramp[~hole])
    assert (filled - ramp).abs().max() < 0.15
    assert torch.equal(images.fill_surroundings(ramp, torch.ones_like(hole)), torch.full_like(ramp, 0.5))


def test_color_match_undoes_a_shift():
    original = picture(32, 32) * 0.4 + 0.3
    mask = box(32, 32)
    shifted = original * 0.9 + torch.tensor([0.05, -0.02, 0.03])
    (result,) = call("SD2Composite", original, shifted, mask, True)
    assert torch.allclose(result, original, atol=1e-5)
    (all_masked,) = call("SD2Composite", original, shifted, torch.ones(1, 32, 32), True)
    assert torch.equal(all_masked, shifted)  # nothing to compare


def test_composite_accepts_other_sizes():
    image = picture(61, 75)
    padded = images.pad(image, 8)
    assert torch.equal(call("SD2Composite", image, padded, torch.ones(1, 61, 75), False)[0], image)
    assert call("SD2Composite", image, picture(128, 128), box(20, 20), True)[0].shape == image.shape


def test_sample_images(tmp_path, monkeypatch):
    monkeypatch.setattr(sample_image, "SAMPLES", tmp_path)
    colours = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "park.png")
    Image.fromarray(colours[..., 0]).save(tmp_path / "park_mask.png")
    Image.fromarray(colours).save(tmp_path / "alone.png")
    assert declared("SD2SampleImage")["name"][0] == ["alone.png", "park.png"]
    image, mask = call("SD2SampleImage", "park.png")
    assert torch.equal(image, torch.from_numpy(colours / np.float32(255))[None])
    assert torch.equal(mask, image[..., 0])
    assert not call("SD2SampleImage", "alone.png")[1].any()
    with pytest.raises(ValueError, match="is outside"):
        call("SD2SampleImage", "../alone.png")
    own, drawn = picture(5, 7), torch.ones(1, 5, 7)
    assert all(map(torch.equal, call("SD2SampleImage", "park.png", image=own, mask=drawn), (own, drawn)))
    assert all(map(torch.equal, call("SD2SampleImage", "park.png", image=own), (own, torch.zeros(1, 5, 7))))
    assert all(map(torch.equal, call("SD2SampleImage", "park.png", mask=drawn), (image, drawn)))


@pytest.mark.parametrize("words", ["v-prediction", "outpaint", "inpaint", "stable diffusion 2"])
def test_the_node_search_finds_what_people_type(words):
    found = [name for name, cls in NODE_CLASS_MAPPINGS.items() if words in cls.SEARCH_ALIASES]
    assert found


# files


def test_models_are_found_by_name_and_path(models, tiny_models):
    tiny_models.file("v2-v")
    names = backend.list_models("checkpoints")
    assert {"v2-v.safetensors", "sub/half.safetensors"} <= set(names)
    assert declared("SD2CheckpointLoader")["ckpt_name"][0] == names
    for name in ("sub/half.safetensors", str(models / "checkpoints" / "sub" / "half.safetensors")):
        assert backend.resolve_model("checkpoints", name) == models / "checkpoints" / "sub" / "half.safetensors"
        assert NODE_CLASS_MAPPINGS["SD2CheckpointLoader"].VALIDATE_INPUTS(name) is True


@pytest.mark.parametrize("name", ["../secret.safetensors", "sub/../../secret.safetensors"])
def test_names_stay_inside_the_folder(models, name):
    (models / "secret.safetensors").touch()
    with pytest.raises(ValueError, match="is outside"):
        backend.resolve_model("checkpoints", name)


def test_a_missing_model_says_where_it_was_looked_for(models):
    answer = NODE_CLASS_MAPPINGS["SD2CheckpointLoader"].VALIDATE_INPUTS("512-inpainting-ema.safetensors")
    assert "512-inpainting-ema.safetensors" in answer
    assert str(models / "checkpoints") in answer


def test_chosen_folders(tmp_path):
    chosen = folders.Folders(models=tmp_path, input=tmp_path / "in", output=tmp_path / "out")
    with folders.using(chosen):
        assert backend.input_dir() == tmp_path / "in"
        assert folders.output_dir() == tmp_path / "out"
        assert folders.model_dirs("checkpoints")[0] == tmp_path / "checkpoints"
    assert folders.output_dir() == Path.cwd() / "output"


def test_a_replaced_file_is_noticed(own_models):
    path = own_models("v2-base") / "v2-base.safetensors"
    fingerprint = NODE_CLASS_MAPPINGS["SD2CheckpointLoader"].IS_CHANGED
    before = fingerprint("v2-base.safetensors", "auto", "auto")
    assert fingerprint("v2-base.safetensors", "auto", "auto") == before
    os.utime(path, ns=(1, 1))
    assert fingerprint("v2-base.safetensors", "auto", "auto") != before


def test_the_prediction_widget_overrides(load):
    file = load("v2-inpaint", "v_prediction")
    assert file.model.prediction == "v_prediction"
    assert "v_prediction" in file.report


# errors


def test_a_text_to_image_model_in_an_inpainting_graph(load):
    file = load("v2-v")
    prepared = call("SD2VAEEncodeForInpaint", *prompts(file), file.vae, picture(), box())
    with pytest.raises(ValueError, match=r"v2-v\.safetensors is a checkpoint for text-to-image .*v2-v.*v2-inpaint"):
        sample(file, *prepared)


def test_a_model_of_another_task(load):
    file = load("v2-depth")
    with pytest.raises(ValueError, match=r"v2-depth\.safetensors .*depth"):
        sample(file, *prompts(file), empty())


def test_nan_is_named(own_models):
    own_models("v2-base")
    file = loaded("v2-base.safetensors")
    bad = {"samples": torch.full((1, 4, 8, 8), torch.nan)}
    with pytest.raises(ValueError, match="NaN before sampling"):
        sample(file, *prompts(file), bad)
    with pytest.raises(ValueError, match="NaN"):
        call("SD2VAEDecode", bad, file.vae)
    file.model.unet.out[2].bias = torch.nn.Parameter(torch.full((4,), torch.nan), requires_grad=False)
    with pytest.raises(ValueError, match="bfloat16"):
        sample(file, *prompts(file), empty())


def test_wrong_shapes_and_wires_are_named(load):
    file = load("v2-base")
    positive, negative = prompts(file)
    with pytest.raises(ValueError, match=r"\[1, 16, 8, 8\]"):
        sample(file, positive, negative, {"samples": torch.zeros(1, 16, 8, 8)})
    narrow = [[torch.zeros(1, 77, 48), {}]]
    with pytest.raises(ValueError, match=r"48-dim.*64"):
        sample(file, narrow, negative, empty())
    with pytest.raises(ValueError, match="gligen"):
        sample(file, [[positive[0][0], {"gligen": ("position",)}]], negative, empty())
    with pytest.raises(ValueError, match="clip output of SD2 Load Checkpoint"):
        call("SD2CLIPTextEncode", None, "cat")
