"""The stand-ins that compute: one property each, against an expression of its own."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers_keys import transformers_image
from helpers import empty, picture, prompts
from safetensors.torch import save_file
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.models.clip_image import ImageTower, preprocess
from sd2_family.models.detection import detect
from sd2_family.models.image_file import load_image_encoder
from sd2_family.models.text_file import load_text_encoder
from sd2_family.pipeline.progress import reporting
from sd2_family.pipeline.upscale_model import UpscaleModel
from spandrel.architectures.ESRGAN import ESRGAN
from tiny import hugging_face_image, hugging_face_text, randomise, tiny_spec, tiny_state
from torch.nn import functional as F


def run(name, **inputs):
    """The outputs of a stand-in."""
    return getattr(STOCK[name](), STOCK[name].FUNCTION)(**inputs)


def rand(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


# Images


def test_image_scale_by_rounds_the_size():
    (scaled,) = run("ImageScaleBy", image=rand(2, 37, 53, 3), upscale_method="area", scale_by=0.7)
    assert scaled.shape == (2, 26, 37, 3)


def test_image_scale_to_total_pixels_keeps_the_aspect():
    (scaled,) = run("ImageScaleToTotalPixels", image=rand(1, 40, 80, 3), upscale_method="bilinear", megapixels=0.02)
    assert scaled.shape == (1, round(40 * (k := math.sqrt(20971 / 3200))), round(80 * k), 3)


def test_images_are_inverted_joined_and_filled():
    first, second = rand(1, 6, 8, 3), rand(2, 6, 8, 3)
    assert torch.equal(run("ImageInvert", image=first)[0], 1 - first)
    assert torch.equal(run("ImageBatch", image1=first, image2=second)[0], torch.cat([first, second]))
    wide = torch.arange(24.0)[None, None, :, None].expand(1, 6, 24, 3)  # its middle third has the aspect of the first
    assert torch.equal(run("ImageBatch", image1=first, image2=wide)[0][1, 0, :, 0], torch.arange(8.0, 16.0))
    (red,) = run("EmptyImage", width=2, height=3, batch_size=4, color=0xFF3300)
    assert red.shape == (4, 3, 2, 3)
    assert torch.allclose(red[3, 2, 1], torch.tensor([1, 0.2, 0]))


# Masks


@pytest.mark.parametrize(("tapered", "distance"), [(True, lambda y, x: y + x), (False, max)])
def test_grow_mask_is_a_ball_of_its_metric(tapered, distance):
    mask = torch.zeros(1, 11, 13)
    mask[0, 5, 6] = 0.8
    expected = torch.tensor([[0.8 * (distance(abs(y - 5), abs(x - 6)) <= 3) for x in range(13)] for y in range(11)])
    (grown,) = run("GrowMask", mask=mask, expand=3, tapered_corners=tapered)
    assert torch.equal(grown[0], expected)
    (shrunk,) = run("GrowMask", mask=1 - mask, expand=-3, tapered_corners=tapered)
    assert torch.allclose(shrunk[0], 1 - expected)


def test_feather_mask_multiplies_columns_and_rows_as_comfyui_numbers_them():
    expected = torch.ones(9, 12)
    for i in range(4):
        expected[:, i] *= (i + 1) / 4  # left
        expected[-i, :] *= (i + 1) / 4  # bottom: its first step is row 0
    (feathered,) = run("FeatherMask", mask=torch.ones(1, 9, 12), left=4, top=0, right=0, bottom=4)
    assert torch.allclose(feathered[0], expected)


def test_masks_are_made_cut_and_combined():
    (solid,) = run("SolidMask", value=0.25, width=6, height=4)
    assert torch.equal(solid, torch.full((1, 4, 6), 0.25))
    mask, patch = rand(1, 8, 10), rand(1, 3, 5)
    assert torch.equal(run("CropMask", mask=mask, x=7, y=2, width=9, height=3)[0], mask[:, 2:5, 7:])
    by_hand = {
        "multiply": lambda a, b: a * b,
        "add": lambda a, b: min(a + b, 1),
        "subtract": lambda a, b: max(a - b, 0),
        "and": lambda a, b: float(a > 0.5 and b > 0.5),
        "or": lambda a, b: float(a > 0.5 or b > 0.5),
        "xor": lambda a, b: float((a > 0.5) != (b > 0.5)),
    }
    for name, operation in by_hand.items():
        expected = mask.clone()
        for y in range(3):
            for x in range(3):  # the other two columns are outside
                expected[0, 4 + y, 7 + x] = operation(float(mask[0, 4 + y, 7 + x]), float(patch[0, y, x]))
        (combined,) = run("MaskComposite", destination=mask, source=patch, x=7, y=4, operation=name)
        assert torch.allclose(combined, expected)


# Latents


def test_latents_are_resized_on_great_circles():
    a, b = torch.tensor([2.0, 0, 0, 0]), torch.tensor([0, 4.0, 0, 0])
    latent = {"samples": torch.stack([a, b], 1).reshape(1, 4, 1, 2)}
    (resized,) = run("LatentUpscaleBy", samples=latent, upscale_method="bislerp", scale_by=2.0)
    assert resized["samples"].shape == (1, 4, 2, 4)
    column = resized["samples"][0, :, 0, 1]  # a quarter of the way
    angle = math.pi / 2 / 4
    assert torch.allclose(column, 2.5 * torch.tensor([math.cos(angle), math.sin(angle), 0, 0]), atol=1e-5)


def test_latent_upscale_is_torchs_and_keeps_the_aspect():
    samples = rand(2, 4, 10, 20)
    values = {"samples": {"samples": samples, "batch_index": [3, 4]}, "upscale_method": "nearest-exact"}
    (resized,) = run("LatentUpscale", **values, width=320, height=0, crop="disabled")
    assert torch.equal(resized["samples"], F.interpolate(samples, size=(20, 40), mode="nearest-exact"))
    assert resized["batch_index"] == [3, 4]
    (cut,) = run("LatentUpscale", **values, width=80, height=80, crop="center")
    assert torch.equal(cut["samples"], samples[..., 5:15])


def test_latents_are_turned_flipped_and_cut():
    samples = rand(1, 4, 12, 16)
    latent = {"samples": samples}
    (turned,) = run("LatentRotate", samples=latent, rotation="90 degrees")
    assert torch.equal(turned["samples"], samples.flip(2).transpose(2, 3))  # clockwise
    (flipped,) = run("LatentFlip", samples=latent, flip_method="x-axis: vertically")
    assert torch.equal(flipped["samples"], samples.flip(2))
    (cut,) = run("LatentCrop", samples=latent, width=64, height=64, x=400, y=16)
    assert torch.equal(cut["samples"], samples[:, :, 2:10, 8:])


def test_latent_composite_fades_at_the_edges_inside():
    under, over = torch.zeros(1, 4, 10, 12), torch.ones(1, 4, 6, 6)
    values = {"samples_to": {"samples": under}, "samples_from": {"samples": over}}
    (result,) = run("LatentComposite", **values, x=0, y=32, feather=16)
    assert result["samples"][0, 0, 3:, :8].tolist() == [
        [0.0] * 8,
        *([v * w for w in (1, 1, 1, 1, 1, 0.5)] + [0.0, 0.0] for v in (0.5, 1, 1, 1, 1, 1)),
    ]
    assert not under.any()


def test_latent_composite_masked_and_blend():
    under, over, mask = rand(1, 4, 8, 8), rand(1, 4, 3, 3), rand(1, 3, 3)
    values = {"destination": {"samples": under}, "source": {"samples": over}, "resize_source": False}
    (result,) = run("LatentCompositeMasked", **values, x=16, y=8, mask=mask)
    expected = under.clone()
    expected[:, :, 1:4, 2:5] = over * mask + under[:, :, 1:4, 2:5] * (1 - mask)
    assert torch.allclose(result["samples"], expected)
    (blend,) = run("LatentBlend", samples1={"samples": under}, samples2={"samples": -under}, blend_factor=0.75)
    assert torch.allclose(blend["samples"], under / 2)


def test_latent_from_batch_keeps_noise_and_masks():
    samples = rand(4, 4, 2, 2)
    latent = {"samples": samples, "noise_mask": rand(2, 1, 2, 2)}
    (chosen,) = run("LatentFromBatch", samples=latent, batch_index=2, length=9)
    assert torch.equal(chosen["samples"], samples[2:])
    assert torch.equal(chosen["noise_mask"], latent["noise_mask"])
    assert chosen["batch_index"] == [2, 3]


# Conditioning


def test_prompts_are_mixed_joined_and_cleared():
    short, long = [[rand(1, 2, 3), {"strength": 0.5}]], [[rand(1, 4, 3), {}]]
    (mixed,) = run("ConditioningAverage", conditioning_to=long, conditioning_from=short, conditioning_to_strength=0.75)
    filled = torch.cat([short[0][0], torch.zeros(1, 2, 3)], 1)
    assert torch.allclose(mixed[0][0], 0.75 * long[0][0] + 0.25 * filled)
    (joined,) = run("ConditioningConcat", conditioning_to=short, conditioning_from=long)
    assert torch.equal(joined[0][0], torch.cat([short[0][0], long[0][0]], 1))
    assert joined[0][1] == {"strength": 0.5}
    assert not run("ConditioningZeroOut", conditioning=short)[0][0][0].any()
    assert run("ConditioningCombine", conditioning_1=short, conditioning_2=long)[0] == short + long


def test_places_are_written_as_comfyui_writes_them():
    given = [[rand(1, 2, 3), {}]]
    (area,) = run("ConditioningSetArea", conditioning=given, width=128, height=64, x=8, y=16, strength=1.5)
    assert area[0][1] == {"area": (8, 16, 2, 1), "strength": 1.5, "set_area_to_bounds": False}
    (steps,) = run("ConditioningSetTimestepRange", conditioning=given, start=0.1, end=0.5)
    assert steps[0][1] == {"start_percent": 0.1, "end_percent": 0.5}
    assert given[0][1] == {}


class Blocks:
    """An autoencoder that keeps one pixel of each 8 x 8."""

    downscale_ratio = 8

    def encode(self, pixels):
        return pixels[:, ::8, ::8, :3].movedim(-1, 1)


def test_inpainting_encodes_gray_where_the_mask_is():
    image, mask = rand(1, 19, 24, 3), torch.zeros(1, 19, 24)
    mask[:, 9, 8] = 1  # the first pixel of a block after one row is cut at the top
    (latent,) = run("VAEEncodeForInpaint", vae=Blocks(), pixels=image, mask=mask, grow_mask_by=3)
    expected = image[:, 1:17:8, ::8].movedim(-1, 1).clone()
    expected[:, :, 1, 1] = 0.5
    assert torch.equal(latent["samples"], expected)
    assert latent["noise_mask"].shape == (1, 1, 16, 24)
    assert latent["noise_mask"].nonzero()[:, 2:].tolist() == [[y, x] for y in (7, 8, 9) for x in (7, 8, 9)]
    side = [[rand(1, 2, 3), {}]]
    outputs = run("InpaintModelConditioning", positive=side, negative=side, vae=Blocks(), pixels=image, mask=mask)
    assert torch.equal(outputs[0][0][1]["concat_latent_image"], expected)
    assert torch.equal(outputs[1][0][1]["concat_mask"], mask[:, None, 1:17])
    assert torch.equal(outputs[2]["samples"], image[:, ::8, ::8].movedim(-1, 1))


def test_a_mask_in_pixels_reaches_the_unet_as_comfyui_resizes_it():
    from sd2_family.models.specs import SPECS
    from sd2_family.pipeline import inpaint

    mask = rand(1, 1, 64, 64)
    given = {"concat_mask": mask, "concat_latent_image": rand(1, 4, 8, 8)}
    channels = inpaint.channels(given, torch.zeros(1, 4, 8, 8), None, SPECS["v2-inpaint"], encode=None)
    middle = (mask[..., 3::8, :] + mask[..., 4::8, :])[..., 3::8] + (mask[..., 3::8, :] + mask[..., 4::8, :])[
        ..., 4::8
    ]
    assert torch.equal(channels[:, :1], (middle / 4).round())


def test_upscaling_conditions_on_the_picture_at_the_latents_size():
    side, image = [[rand(1, 2, 3), {}]], rand(2, 12, 20, 3)
    values = {"images": image, "positive": side, "negative": side, "noise_augmentation": 0.25}
    positive, _, latent = run("SD_4XUpscale_Conditioning", **values, scale_ratio=4.0)
    assert torch.allclose(positive[0][1]["concat_image"], image.movedim(-1, 1) * 2 - 1)
    assert latent["samples"].shape == (2, 4, 12, 20)
    with pytest.raises(ValueError, match=r"scale_ratio is 0\.1"):
        run("SD_4XUpscale_Conditioning", **values, scale_ratio=0.1)


def test_unclip_images_are_collected():
    output, side = SimpleNamespace(image_embeds=rand(1, 4)), [[rand(1, 2, 3), {}]]
    values = {"clip_vision_output": output, "noise_augmentation": 0.1}
    (once,) = run("unCLIPConditioning", conditioning=side, strength=0.5, **values)
    (twice,) = run("unCLIPConditioning", conditioning=once, strength=-1.0, **values)
    assert [image["strength"] for image in twice[0][1]["unclip_conditioning"]] == [0.5, -1.0]
    assert run("unCLIPConditioning", conditioning=once, strength=0.0, **values)[0] is once


# Autoencoders


class Tiles:
    """Answers with the arguments of the call."""

    def encode_tiled(self, pixels, **sizes):
        return sizes

    decode_tiled = encode_tiled

    def spacial_compression_decode(self):
        return 8


def test_tiles_are_of_pixels():
    values = {"vae": Tiles(), "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
    (encoded,) = run("VAEEncodeTiled", pixels=rand(1, 8, 8, 3), tile_size=256, **values)
    assert encoded["samples"] == {"tile_x": 256, "tile_y": 256, "overlap": 64}
    (decoded,) = run("VAEDecodeTiled", samples={"samples": 0}, tile_size=192, **values)
    assert decoded == {"tile_x": 24, "tile_y": 24, "overlap": 6}


@pytest.fixture
def vae_file(tmp_path, use_folders):
    """vae_file(name, tensors): write a file into the folder vae of the models, from then on this test's own."""
    (tmp_path / "vae").mkdir()

    def write(name, tensors):
        path = tmp_path / "vae" / name
        tensors = {key: tensor.clone() for key, tensor in tensors.items()}
        if path.suffix == ".safetensors":
            save_file(tensors, path)
        else:
            torch.save({"state_dict": tensors}, path)
        use_folders(models=tmp_path)

    return write


def autoencoder():
    """The tensors of a tiny autoencoder under the authors' names."""
    prefix = "first_stage_model."
    return {k.removeprefix(prefix): v for k, v in tiny_state("v2-base").items() if k.startswith(prefix)}


def diffusers_layout():
    from diffusers_keys import diffusers_vae
    from sd2_family.models.autoencoder import AutoencoderKL
    from tiny import tiny_spec

    spec = tiny_spec("v2-base").autoencoder
    ours = AutoencoderKL(spec)
    ours.load_state_dict(autoencoder())
    return diffusers_vae(ours, spec).state_dict()


LAYOUTS = {
    "prefixed.safetensors": lambda: {f"first_stage_model.{k}": v for k, v in autoencoder().items()},
    "bare.ckpt": autoencoder,
    "with the loss.safetensors": lambda: autoencoder() | {"loss.logvar": torch.zeros(()), "model_ema.decay": rand(1)},
    "whole checkpoint.ckpt": lambda: tiny_state("v2-base"),
    "diffusers.safetensors": diffusers_layout,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_vae_loader_reads_every_layout(load, vae_file, name):
    expected = load("v2-base").vae
    vae_file(name, LAYOUTS[name]())
    assert STOCK["VAELoader"].INPUT_TYPES()["required"]["vae_name"][0] == [name]
    assert STOCK["VAELoader"].VALIDATE_INPUTS(name)
    (vae,) = run("VAELoader", vae_name=name)
    assert torch.equal(vae.encode(picture()), expected.encode(picture()))
    latent = torch.randn(1, 4, 4, 4, generator=torch.manual_seed(0))
    assert torch.equal(vae.decode(latent), expected.decode(latent))


def test_vae_loader_says_what_else_a_file_is(vae_file):
    vae_file("a.safetensors", {"lora_unet_x.lora_down.weight": rand(2, 2)})
    with pytest.raises(ValueError, match=r"a\.safetensors is a LoRA.*choose the file of an autoencoder"):
        run("VAELoader", vae_name="a.safetensors")
    wide = autoencoder() | {"decoder.conv_in.weight": rand(64, 16, 3, 3)}
    vae_file("sd3.safetensors", wide)
    with pytest.raises(ValueError, match="16 latent channels"):
        run("VAELoader", vae_name="sd3.safetensors")
    damaged = autoencoder()
    del damaged["decoder.mid.block_1.conv1.weight"]
    vae_file("cut.safetensors", damaged)
    with pytest.raises(ValueError, match="1 missing key"):
        run("VAELoader", vae_name="cut.safetensors")
    with pytest.raises(ValueError, match=r"none\.pt is not in .*vae"):
        STOCK["VAELoader"].VALIDATE_INPUTS("none.pt")


# Checkpoints


def test_checkpoints_load_as_sd2_load_checkpoint_loads_them(load):
    expected = load("unclip-h")
    outputs = run("unCLIPCheckpointLoader", ckpt_name="unclip-h.safetensors")
    assert run("CheckpointLoaderSimple", ckpt_name="unclip-h.safetensors")[0].name == outputs[0].name
    assert torch.equal(prompts(SimpleNamespace(clip=outputs[1]))[0][0][0], prompts(expected)[0][0][0])
    image = picture()
    seen, also = (tower.encode_image(image).image_embeds for tower in (outputs[3], expected.clip_vision))
    assert torch.equal(seen, also)
    assert "nothing.ckpt is not in" in STOCK["CheckpointLoaderSimple"].VALIDATE_INPUTS("nothing.ckpt")


def test_several_images_are_added_up_by_the_stock_loaders_model(load):
    """ComfyUI's own models add weighted image embeddings up; the reference and SD2 Load Checkpoint take their mean."""
    ours = load("unclip-h")
    theirs = SimpleNamespace(model=run("unCLIPCheckpointLoader", ckpt_name="unclip-h.safetensors")[0])
    sides = prompts(ours)

    def sampled(file, weight):
        positive = sides[0]
        for seed in (1, 2):
            output = SimpleNamespace(image_embeds=torch.randn(1, 64, generator=torch.manual_seed(seed)))
            values = {"clip_vision_output": output, "strength": weight, "noise_augmentation": 0.0}
            (positive,) = run("unCLIPConditioning", conditioning=positive, **values)
        widgets = {"seed": 3, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        links = {"positive": positive, "negative": sides[1], "latent_image": empty()}
        return run("KSampler", model=file.model, **links, **widgets)[0]["samples"]

    assert torch.allclose(sampled(ours, 0.5), sampled(theirs, 0.5), atol=1e-4)  # weights that add up to 1
    assert torch.allclose(sampled(ours, 0.5), sampled(ours, 1.5), atol=1e-3)
    assert not torch.allclose(sampled(theirs, 0.5), sampled(theirs, 1.5), atol=0.1)


def test_wrong_pairings_are_said_as_everywhere(load):
    from sd2_family.headless.stock import core_sampler
    from sd2_family.pipeline.types import Sampling

    sampling = Sampling(seed=1, steps=1, cfg=1.0, sampler_name="euler", scheduler="normal")
    base, depth, other = load("v2-base"), load("v2-depth"), [[torch.zeros(1, 77, 48), {}]]
    (inpainting, *_) = run(
        "InpaintModelConditioning",
        positive=prompts(base)[0],
        negative=prompts(base)[1],
        vae=base.vae,
        pixels=picture(),
        mask=torch.ones(1, 64, 64),
    )
    for model, conditioning, sentence in (
        (base.model, inpainting, "has an inpainting mask, which needs a checkpoint of kind v1-inpaint"),
        (depth.model, prompts(base)[0], "without a depth map"),
        (base.model, other, "48-dim"),
    ):
        with pytest.raises(ValueError, match=sentence):
            core_sampler.sample(model, sampling, conditioning, conditioning, empty())


# ---- parts from files of their own


@pytest.fixture
def parts(tmp_path, use_folders):
    """A models folder with the parts of two checkpoints in files of their own."""
    use_folders(models=tmp_path)
    places = {"unet": "model.diffusion_model.", "clip": "cond_stage_model.", "vae": "first_stage_model."}
    for kind in ("v1", "v2-base"):
        state = tiny_state(kind)
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        save_file(clones(state), tmp_path / "checkpoints" / f"{kind}.safetensors")
        for folder, prefix in places.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            part = {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
            if folder == "clip":
                part = {key.removeprefix("transformer."): t for key, t in part.items()}
            save_file(clones(part), tmp_path / folder / f"{kind}.safetensors")


def clones(state):
    return {key: tensor.clone().contiguous() for key, tensor in state.items()}


@pytest.mark.parametrize("kind", ["v1", "v2-base"])
def test_a_model_from_three_files_is_that_of_one(parts, kind):
    name = f"{kind}.safetensors"
    whole = STOCK["CheckpointLoaderSimple"]().load_checkpoint(name)
    apart = [
        STOCK["UNETLoader"]().load_unet(name, "default")[0],
        STOCK["CLIPLoader"]().load_clip(name)[0],
        STOCK["VAELoader"]().load_vae(name)[0],
    ]
    images = []
    for model, clip, vae in (whole, apart):
        positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red cat", ""))
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        sampled = STOCK["KSampler"]().sample(
            model,
            positive,
            negative,
            latent,
            seed=1,
            steps=2,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        )[0]
        images.append(STOCK["VAEDecode"]().decode(vae, sampled)[0])
    assert torch.equal(*images)


@pytest.mark.parametrize(
    ("write", "tower"),
    [
        (lambda state: {f"cond_stage_model.{key}": t for key, t in state.items()}, "openclip-h"),
        (lambda state: {key.removeprefix("model."): t for key, t in state.items()}, "openclip-h"),
        (lambda state: state, "openclip-h"),
        (lambda state: hugging_face_text({k: t for k, t in state.items() if "proj" not in k[:20]}), "clip-l"),
    ],
)
def test_a_text_encoder_under_any_names(tmp_path, write, tower):
    tensors = tiny_state("v2-base")
    state = {k.removeprefix("cond_stage_model."): t for k, t in tensors.items() if k.startswith("cond_stage_model.")}
    state.pop("model.logit_scale")
    if tower == "clip-l":
        state.pop("model.text_projection")
    save_file(clones(write(state)), tmp_path / "x.safetensors")
    found = load_text_encoder(tmp_path / "x.safetensors")
    assert (found.spec.tower, found.spec.layers) == (tower, 3)
    weight = state["model.transformer.resblocks.0.attn.in_proj_weight"]
    assert torch.equal(found.model.transformer.resblocks[0].attn.in_proj_weight, weight)


def test_what_is_no_text_encoder_says_what_it_is(tmp_path):
    save_file({"encoder.down.0.block.0.conv1.weight": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x.safetensors is only an autoencoder .*; choose the file of a text"):
        load_text_encoder(tmp_path / "x.safetensors")


# ---- image encoders


def image_encoder(kind, **sizes):
    """A tower of the kind with random weights, of other sizes than the tiny checkpoints'."""
    return randomise(ImageTower(replace(tiny_spec(kind).image, **sizes)), seed=5)


IMAGE_NAMES = {
    "open_clip": lambda state: state | {"transformer.resblocks.0.ln_1.bias": rand(2), "logit_scale": rand(1)},
    "transformers": hugging_face_image,
    "checkpoint": lambda state: {f"embedder.model.{key}": tensor for key, tensor in state.items()},
}


@pytest.mark.parametrize("names", IMAGE_NAMES)
@pytest.mark.parametrize("kind", ["unclip-h", "unclip-l"])
def test_an_image_encoder_under_any_names(tmp_path, use_folders, kind, names):
    """Against transformers' own encoder."""
    tower = image_encoder(kind, embed_dim=24)
    (tmp_path / "clip_vision").mkdir()
    save_file(clones(IMAGE_NAMES[names](tower.state_dict())), tmp_path / "clip_vision" / "a.safetensors")
    use_folders(models=tmp_path)
    assert STOCK["CLIPVisionLoader"].INPUT_TYPES()["required"]["clip_name"][0] == ["a.safetensors"]
    assert STOCK["CLIPVisionLoader"].VALIDATE_INPUTS("a.safetensors")
    (wire,) = run("CLIPVisionLoader", clip_name="a.safetensors")
    (seen,) = run("CLIPVisionEncode", clip_vision=wire, image=picture(40, 50), crop="none")
    expected = transformers_image(tower)(preprocess(picture(40, 50), 32)).image_embeds
    assert torch.allclose(seen.image_embeds, expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.3


@pytest.mark.parametrize(
    ("width", "layers", "tower", "head_width"),
    [
        (64, 3, "clip-l", 64),
        (80, 3, "openclip-h", 80),
        (160, 3, "openclip-h", 80),
        (320, 3, "clip-l", 64),
        (80, 32, "openclip-h", 80),
        (320, 32, "openclip-h", 80),
        (64, 32, "openclip-h", 64),
        (64, 24, "clip-l", 64),
        (320, 24, "clip-l", 64),
    ],
)
def test_depth_decides_which_clip_an_image_encoder_is(tmp_path, width, layers, tower, head_width):
    made = image_encoder("unclip-h", width=width, head_width=head_width, layers=layers)
    save_file(clones(made.state_dict()), tmp_path / "x.safetensors")
    spec = load_image_encoder(tmp_path / "x.safetensors").spec
    assert spec == replace(made.spec, tower=tower)


def test_what_is_no_image_encoder_says_what_it_is(tmp_path):
    path = tmp_path / "x.safetensors"
    state = image_encoder("unclip-l").state_dict()
    without = {key: tensor for key, tensor in state.items() if key != "visual.proj"}
    for tensors, sentence in (
        ({"encoder.down.0.block.0.conv1.weight": rand(2)}, "is only an autoencoder .*; choose the file of an image"),
        ({"a.weight": rand(2)}, r"x.safetensors is not an image encoder \(its first key is a.weight\); choose the"),
        (without, "has an image encoder without visual.proj; choose CLIP's ViT-H/14 or ViT-L/14"),
        (state | {"visual.extra": rand(2)}, "1 unexpected key"),
    ):
        save_file(clones(tensors), path)
        with pytest.raises(ValueError, match=sentence):
            load_image_encoder(path)
    save_file(clones(state), path)
    with pytest.raises(ValueError, match="is only an image encoder; load it with a CLIP vision loader"):
        detect(path)


# ---- upscale models


@pytest.fixture
def upscaler(tmp_path, use_folders):
    """upscaler(tensors, name): write a file into the folder upscale_models and load it with the stand-in."""
    (tmp_path / "upscale_models").mkdir()
    use_folders(models=tmp_path)

    def load(tensors, name="a.safetensors"):
        path = tmp_path / "upscale_models" / name
        if path.suffix == ".safetensors":
            save_file(clones(tensors), path)
        else:
            torch.save(tensors, path)
        assert STOCK["UpscaleModelLoader"].VALIDATE_INPUTS(name)
        return run("UpscaleModelLoader", model_name=name)[0]

    return load


def esrgan(seed=0, scale=2, **channels):
    """A tiny ESRGAN with random weights, whose images are of ordinary contrast."""
    network = randomise(ESRGAN(num_filters=8, num_blocks=1, scale=scale, **channels), seed)
    network.model[-1].bias.data += 0.5
    return network


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("a.safetensors", lambda state: state),
        ("a.pth", lambda state: state),
        ("b.pth", lambda state: {"params": {"x": rand(1)}, "params_ema": state, "iteration": 3}),
        ("c.pth", lambda state: {"params": {f"module.{key}": tensor for key, tensor in state.items()}}),
        ("d.safetensors", lambda state: {f"module.{key}": tensor for key, tensor in state.items()}),
    ],
)
def test_an_upscale_model_runs_as_its_network_does(upscaler, name, wrap):
    network = esrgan()
    image = picture(20, 30, count=2)
    (larger,) = run("ImageUpscaleWithModel", upscale_model=upscaler(wrap(network.state_dict()), name), image=image)
    with torch.no_grad():
        expected = network(image.movedim(-1, 1)).clamp(0, 1).movedim(1, -1)
    assert larger.shape == (2, 40, 60, 3)
    assert torch.allclose(larger, expected, rtol=0, atol=1e-6)
    assert expected.std() > 0.05
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.3


def test_large_images_are_enlarged_in_tiles_of_512_that_overlap_by_32():
    corners = []

    def enlarge(x):
        corners.append((tuple(x.shape[2:]), round(float(x[0, 0, 0, 0])), round(float(x[0, 1, 0, 0]))))
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3) / 2000 + 0.001 * len(corners)

    rows, columns = torch.meshgrid(torch.arange(600.0), torch.arange(1000.0), indexing="ij")
    image = torch.stack([rows, columns, rows], -1)[None].expand(2, -1, -1, -1)
    seen = []
    with reporting(lambda done, total: seen.append((done, total))):
        larger = UpscaleModel(torch.nn.Linear(1, 1), enlarge, 2).upscale(image)
    placed = [(top, left) for top in (0, 480) for left in (0, 480, 960)]
    assert corners == [((min(512, 600 - y), min(512, 1000 - x)), y, x) for y, x in placed] * 2
    assert seen == [(i + 1, 12) for i in range(12)]
    # from tile to tile the share of the first falls in equal steps over the 64 pixels of the overlap
    assert torch.allclose(larger[0, 0, 960:1024, 0] - 0.001, 0.001 * torch.arange(1, 65) / 65, atol=1e-6)


def test_less_memory_makes_the_tiles_smaller():
    sizes = []

    def enlarge(x):
        sizes.append(max(x.shape))
        if sizes[-1] > 128:
            raise torch.OutOfMemoryError
        return x

    image = picture(200, 300)
    larger = UpscaleModel(torch.nn.Linear(1, 1), enlarge, 1).upscale(image)
    assert sizes[:3] == [300, 256, 128]
    assert torch.allclose(larger, image, atol=1e-6)


def test_what_is_no_upscale_model_says_what_it_is(upscaler):
    state = esrgan().state_dict()
    with pytest.raises(ValueError, match=r"a.safetensors is a LoRA.*; choose the file of an upscale model"):
        upscaler({"lora_unet_x.lora_down.weight": rand(2, 2)})
    with pytest.raises(ValueError, match=r"is not an upscale model \(its first key is a\); choose the file of an up"):
        upscaler({"a": rand(2)})
    with pytest.raises(ValueError, match=r"a.safetensors is incomplete or damaged; download it again"):
        upscaler({key: tensor for key, tensor in state.items() if "RDB2.conv3" not in key})
    with pytest.raises(ValueError, match="does not make RGB images from RGB images"):
        upscaler(esrgan(in_nc=1, out_nc=1).state_dict())
    with pytest.raises(ValueError, match=r"none\.pth is not in .*upscale_models"):
        STOCK["UpscaleModelLoader"].VALIDATE_INPUTS("none.pth")


def test_settings_of_other_families_are_refused(parts):
    assert "type is 'sd3'" in STOCK["CLIPLoader"].VALIDATE_INPUTS("v1.safetensors", "sd3")
    assert "needs ComfyUI" in STOCK["UNETLoader"].VALIDATE_INPUTS("v1.safetensors", "fp8_e5m2")
