"""The stand-ins for ComfyUI's nodes: pictures in and out, and the small operations on them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sd2_family.headless.image_files import image_text
from sd2_family.headless.inputs import hidden_of, inputs_of
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.headless.stock import file_nodes as files
from sd2_family.pipeline import pil as images
from torch.nn import functional as F


@pytest.fixture(autouse=True)
def folders(tmp_path, use_folders):
    """An input and an output folder of this test's own."""
    (tmp_path / "in").mkdir()
    use_folders(input=tmp_path / "in", output=tmp_path / "out")
    return tmp_path


def picture(*shape, dtype=np.uint8):
    generator = np.random.default_rng(0)
    return generator.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def load(folders, made, name="a.png", **options):
    made.save(folders / "in" / name, **options)
    return STOCK["LoadImage"]().load_image(name)


# Reading


def test_load_image_without_alpha(folders):
    pixels = picture(5, 7, 3)
    image, mask = load(folders, Image.fromarray(pixels))
    assert image.shape == (1, 5, 7, 3)
    assert torch.equal(image[0], torch.from_numpy(pixels).float() / 255)
    assert torch.equal(mask, torch.zeros(1, 64, 64))


def test_load_image_mask_is_one_minus_alpha(folders):
    pixels = picture(5, 7, 4)
    image, mask = load(folders, Image.fromarray(pixels))
    assert torch.equal(image[0], torch.from_numpy(pixels[..., :3]).float() / 255)
    assert torch.equal(mask[0], 1 - torch.from_numpy(pixels[..., 3]).float() / 255)


def test_load_image_grey_with_alpha(folders):
    image, mask = load(folders, Image.fromarray(picture(5, 7, 2), "LA"))
    assert image.shape == (1, 5, 7, 3)
    assert torch.equal(image[..., 0], image[..., 2])
    assert mask.shape == (1, 5, 7)


def test_load_image_grey(folders):
    image, _ = load(folders, Image.fromarray(picture(5, 7)))
    assert torch.equal(image[..., 0], image[..., 1])


def test_load_image_sixteen_bits(folders):
    pixels = np.array([[0, 257, 32768, 65535]], np.uint16)
    image, _ = load(folders, Image.fromarray(pixels))
    assert torch.allclose(image[0, 0, :, 0], torch.tensor([0, 1 / 255, 0.5, 1]), atol=1e-5)  # 32768 / 65535 = 0.500008
    wide, _ = load(folders, Image.fromarray(pixels.astype(np.int32)), "wide.tiff")  # mode I, as older Pillows read it
    assert torch.equal(image, wide)


def test_load_image_cmyk(folders):
    cyan = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    image, _ = load(folders, cyan, "a.tiff")
    assert torch.allclose(image[0, 0, 0], torch.tensor([0.0, 1.0, 1.0]))


def test_load_image_palette_with_transparency(folders):
    made = Image.new("P", (4, 4), 1)
    made.putpalette([0, 0, 0, 255, 0, 0])
    made.putpixel((0, 0), 0)
    image, mask = load(folders, made, transparency=0)
    assert image[0, 3, 3].tolist() == [1, 0, 0]
    assert mask[0].sum() == mask[0, 0, 0] == 1


def test_load_image_turns_photographs_upright(folders):
    made = Image.fromarray(picture(5, 7, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn clockwise
    image, _ = load(folders, made, exif=exif)
    assert torch.equal(image[0], torch.from_numpy(np.rot90(np.asarray(made), -1).copy()).float() / 255)


def test_load_image_batches_the_frames_of_an_animation(folders):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue", "white")]
    image, mask = load(folders, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert image.shape == (3, 3, 4, 3)
    assert image[:, 0, 0].tolist() == [[1, 0, 0], [0, 0, 1], [1, 1, 1]]
    assert mask.shape == (3, 64, 64)


@pytest.mark.parametrize(("channel", "index"), [("red", 0), ("green", 1), ("blue", 2)])
def test_load_image_mask_takes_a_channel(folders, channel, index):
    pixels = picture(5, 7, 3)
    Image.fromarray(pixels).save(folders / "in" / "a.png")
    (mask,) = STOCK["LoadImageMask"]().load_image("a.png", channel)
    assert torch.equal(mask[0], torch.from_numpy(pixels[..., index]).float() / 255)


def test_load_image_mask_inverts_alpha_and_scales_sixteen_bits(folders):
    pixels = picture(5, 7, 4)
    Image.fromarray(pixels).save(folders / "in" / "a.png")
    (mask,) = STOCK["LoadImageMask"]().load_image("a.png", "alpha")
    assert torch.equal(mask[0], 1 - torch.from_numpy(pixels[..., 3]).float() / 255)
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(folders / "in" / "deep.png")
    (mask,) = STOCK["LoadImageMask"]().load_image("deep.png", "red")
    assert torch.allclose(mask, torch.tensor([[[0, 0.5, 1]]]), atol=1 / 255)  # through 8 bits


def test_files_outside_the_input_folder_are_refused(folders):
    Image.new("RGB", (4, 4)).save(folders / "secret.png")
    for name in ("../secret.png", str(folders / "secret.png")):
        with pytest.raises(ValueError, match="is outside"):
            STOCK["LoadImage"].VALIDATE_INPUTS(name)
    with pytest.raises(ValueError, match=r"'none\.png' is not in the input folder"):
        STOCK["LoadImage"].VALIDATE_INPUTS("none.png")


def test_a_file_that_is_no_picture_is_named_before_anything_runs(folders):
    (folders / "in" / "a.png").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.png is not a readable image"):
        STOCK["LoadImage"].VALIDATE_INPUTS("a.png")


def test_a_cut_off_file_is_named(folders):
    Image.fromarray(picture(64, 64, 3)).save(folders / "in" / "a.png")
    whole = (folders / "in" / "a.png").read_bytes()
    (folders / "in" / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.png is a damaged image"):
        STOCK["LoadImage"]().load_image("a.png")


def test_names_as_comfyui_annotates_them(folders):
    Image.new("RGB", (4, 4)).save(folders / "in" / "a.png")
    assert files.input_file("a.png [input]") == folders / "in" / "a.png"


def test_a_changed_file_is_noticed(folders):
    Image.new("RGB", (4, 4)).save(folders / "in" / "a.png")
    before = STOCK["LoadImage"].IS_CHANGED("a.png")
    assert before == STOCK["LoadImageMask"].IS_CHANGED("a.png", channel="red")
    Image.new("RGB", (40, 40)).save(folders / "in" / "a.png")
    assert STOCK["LoadImage"].IS_CHANGED("a.png") != before


# Writing


def saved(folders):
    return sorted(path.relative_to(folders / "out").as_posix() for path in (folders / "out").rglob("*.*"))


def test_save_image_round_trip_and_embedded_workflow(folders):
    pixels = torch.arange(256).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3) / 255
    prompt, ui = {"1": {"class_type": "X", "inputs": {"text": "Grüße"}}}, {"nodes": [], "links": []}
    shown = STOCK["SaveImage"]().save_images(pixels, "a", prompt, {"workflow": ui})
    assert shown == {"ui": {"images": [{"filename": "a_00001_.png", "subfolder": "", "type": "output"}]}}
    path = folders / "out" / "a_00001_.png"
    image, _ = images.load(path)
    assert torch.equal(image, pixels)
    text = {key: json.loads(value) for key, value in image_text(path).items()}
    assert text == {"prompt": prompt, "workflow": ui}


def test_save_image_numbers_follow_the_highest(folders):
    STOCK["SaveImage"]().save_images(torch.zeros(2, 4, 4, 3), "a")
    (folders / "out" / "a_00001_.png").unlink()
    (folders / "out" / "ab_00009_.png").touch()
    STOCK["SaveImage"]().save_images(torch.zeros(1, 4, 4, 3), "a")
    assert saved(folders) == ["a_00002_.png", "a_00003_.png", "ab_00009_.png"]


def test_save_image_subfolders_and_tokens(folders):
    shown = STOCK["SaveImage"]().save_images(torch.zeros(2, 4, 6, 3), "sets/%width%x%height%/%year%_%batch_num%")
    assert [image["subfolder"] for image in shown["ui"]["images"]] == ["sets/6x4"] * 2
    names = [image["filename"] for image in shown["ui"]["images"]]
    assert [name[4:] for name in names] == ["_0_00001_.png", "_1_00002_.png"]
    assert names[0][:2] == "20"
    assert saved(folders) == [f"sets/6x4/{name}" for name in names]


@pytest.mark.parametrize("prefix", ["../a", "/a", "a/../../b", "", "."])
def test_save_image_stays_in_its_folder(prefix):
    with pytest.raises(ValueError, match=r"is outside|start of a file name"):
        STOCK["SaveImage"].VALIDATE_INPUTS(prefix)


def test_save_image_truncates_and_clips():
    values = torch.tensor([-0.1, 0.999, 1.2, 0.5])[None, :, None].repeat(1, 1, 3)
    assert np.asarray(images.to_pil(values))[0, :, 0].tolist() == [0, 254, 255, 127]


def test_a_failed_save_leaves_nothing(folders, monkeypatch):
    def fail(self, path, *args, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        STOCK["SaveImage"]().save_images(torch.zeros(1, 4, 4, 3), "a")
    assert list((folders / "out").iterdir()) == []


def test_previews_are_kept_apart(folders):
    STOCK["PreviewImage"]().save_images(torch.zeros(1, 4, 4, 3))
    assert saved(folders) == ["preview/ComfyUI_temp_00001_.png"]


@pytest.mark.parametrize(
    ("source", "text"), [("hello", "hello"), (3, "3"), ([1, 2], "[1, 2]"), (torch.zeros(1), "tensor([0.])")]
)
def test_preview_any_shows_text(source, text):
    assert STOCK["PreviewAny"]().main(source) == {"ui": {"text": (text,)}}


# Operations


def test_image_scale_keeps_aspect_where_a_side_is_zero():
    image = torch.rand(2, 10, 20, 3)
    scale = STOCK["ImageScale"]().upscale
    assert scale(image, "bilinear", 40, 0, "disabled")[0].shape == (2, 20, 40, 3)
    assert scale(image, "bilinear", 0, 5, "disabled")[0].shape == (2, 5, 10, 3)
    assert torch.equal(scale(image, "bilinear", 0, 0, "disabled")[0], image)


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic"])
def test_image_scale_methods_are_torchs(method):
    image = torch.rand(1, 10, 20, 3)
    expected = F.interpolate(image.movedim(-1, 1), size=(7, 9), mode=method).movedim(1, -1)
    assert torch.equal(STOCK["ImageScale"]().upscale(image, method, 9, 7, "disabled")[0], expected)


def test_image_scale_lanczos_is_pillows():
    image = torch.from_numpy(picture(1, 10, 20, 3)).float() / 255
    expected = images.to_pil(image[0]).resize((9, 7), Image.Resampling.LANCZOS)
    scaled = STOCK["ImageScale"]().upscale(image, "lanczos", 9, 7, "disabled")[0]
    assert torch.equal(scaled[0], torch.from_numpy(np.array(expected)).float() / 255)


def test_image_scale_crops_to_the_middle():
    image = torch.arange(20.0)[None, None, :, None].repeat(1, 10, 1, 3)
    scaled = STOCK["ImageScale"]().upscale(image, "nearest-exact", 10, 10, "center")[0]
    assert scaled[0, 0, :, 0].tolist() == list(range(5, 15))


def test_empty_latent():
    (latent,) = STOCK["EmptyLatentImage"]().generate(64, 32, 3)
    assert torch.equal(latent["samples"], torch.zeros(3, 4, 4, 8))


def test_repeat_latent_batch_gives_each_copy_its_own_index():
    samples = torch.rand(2, 4, 3, 3)
    latent = {"samples": samples, "noise_mask": torch.rand(2, 1, 3, 3), "batch_index": [4, 7]}
    (repeated,) = STOCK["RepeatLatentBatch"]().repeat(latent, 3)
    assert torch.equal(repeated["samples"], torch.cat([samples] * 3))
    assert torch.equal(repeated["noise_mask"], torch.cat([latent["noise_mask"]] * 3))
    assert repeated["batch_index"] == [4, 7, 8, 11, 12, 15]


def test_composite_through_a_mask_and_over_the_edge():
    under, over = torch.zeros(2, 6, 6, 3), torch.ones(1, 4, 4, 3)
    mask = torch.zeros(1, 4, 4)
    mask[:, :, 1:] = 0.5
    (result,) = STOCK["ImageCompositeMasked"]().composite(under, over, 4, 3, False, mask)
    expected = torch.zeros(2, 6, 6, 3)
    expected[:, 3:, 5] = 0.5
    assert torch.equal(result, expected)
    assert not under.any()


def test_composite_stretches_the_source():
    (result,) = STOCK["ImageCompositeMasked"]().composite(torch.zeros(1, 6, 8, 3), torch.ones(1, 2, 2, 3), 0, 0, True)
    assert torch.equal(result, torch.ones(1, 6, 8, 3))


def test_pad_for_outpaint_feathers_only_padded_sides():
    image = torch.rand(1, 12, 16, 3)
    padded, mask = STOCK["ImagePadForOutpaint"]().expand_image(image, 0, 8, 8, 0, 4)
    assert torch.equal(padded[:, 8:, :16], image)
    assert padded[0, 0, 0].tolist() == [0.5] * 3
    expected = torch.ones(20, 24)
    for y in range(12):
        for x in range(16):
            expected[8 + y, x] = max(0, 4 - min(y, 16 - x)) ** 2 / 16
    assert torch.equal(mask[0], expected)


def test_masks_and_images():
    mask = torch.rand(2, 3, 4)
    (image,) = STOCK["MaskToImage"]().mask_to_image(mask)
    assert image.shape == (2, 3, 4, 3)
    assert torch.equal(STOCK["ImageToMask"]().image_to_mask(image, "green")[0], mask)
    assert torch.equal(STOCK["InvertMask"]().invert(mask)[0], 1 - mask)
    with pytest.raises(ValueError, match="no alpha channel"):
        STOCK["ImageToMask"]().image_to_mask(image, "alpha")
    (latent,) = STOCK["SetLatentNoiseMask"]().set_mask({"samples": image}, mask)
    assert latent["noise_mask"].shape == (2, 1, 3, 4)


class Recorder:
    """Answers every method with its name and arguments."""

    def __getattr__(self, name):
        return lambda *args, **options: (name, *args, *options.values())


def test_models_on_the_wires_are_asked_as_comfyui_asks_them():
    image, wire = torch.rand(1, 8, 8, 4), Recorder()
    encoded = STOCK["VAEEncode"]().encode(wire, image)[0]["samples"]
    assert encoded[0] == "encode"
    assert torch.equal(encoded[1], image[..., :3])
    assert STOCK["VAEDecode"]().decode(wire, {"samples": 1})[0] == ("decode", 1)
    tokens = ("tokenize", "a")
    assert STOCK["CLIPTextEncode"]().encode(wire, "a")[0] == (
        "encode_from_tokens_scheduled",
        tokens,
    )
    assert STOCK["CLIPVisionEncode"]().encode(wire, image, "center")[0][2] is True
    assert STOCK["CLIPVisionEncode"]().encode(wire, image, "none")[0][2] is False


@pytest.mark.parametrize("name", STOCK)
def test_every_stand_in_is_well_formed(name):
    node_class = STOCK[name]
    assert callable(getattr(node_class, node_class.FUNCTION))
    assert all(isinstance(kind, str) for kind in node_class.RETURN_TYPES)
    for entry in inputs_of(node_class).values():
        of_files = entry.options.get("image_upload") or entry.name.endswith("_name")  # there may be none
        assert not entry.widget or entry.has_default or entry.type == "STRING" or of_files
        if entry.has_default:
            entry.check(entry.convert(entry.default))
    assert set(hidden_of(node_class)) <= {"prompt", "extra_pnginfo"}


WIDGETS = {  # the widget order of ComfyUI 0.3.64, which saved workflows rely on
    "LoadImage": "image",
    "LoadImageMask": "image channel",
    "SaveImage": "filename_prefix",
    "CheckpointLoaderSimple": "ckpt_name",
    "unCLIPCheckpointLoader": "ckpt_name",
    "VAELoader": "vae_name",
    "CLIPLoader": "clip_name type device",
    "UNETLoader": "unet_name weight_dtype",
    "CLIPVisionLoader": "clip_name",
    "UpscaleModelLoader": "model_name",
    "CLIPTextEncode": "text",
    "CLIPSetLastLayer": "stop_at_clip_layer",
    "LoraLoader": "lora_name strength_model strength_clip",
    "LoraLoaderModelOnly": "lora_name strength_model",
    "CLIPVisionEncode": "crop",
    "ConditioningAverage": "conditioning_to_strength",
    "ConditioningSetArea": "width height x y strength",
    "ConditioningSetAreaPercentage": "width height x y strength",
    "ConditioningSetAreaStrength": "strength",
    "ConditioningSetMask": "strength set_cond_area",
    "ConditioningSetTimestepRange": "start end",
    "unCLIPConditioning": "strength noise_augmentation",
    "SD_4XUpscale_Conditioning": "scale_ratio noise_augmentation",
    "VAEEncodeForInpaint": "grow_mask_by",
    "InpaintModelConditioning": "noise_mask",
    "VAEEncodeTiled": "tile_size overlap temporal_size temporal_overlap",
    "VAEDecodeTiled": "tile_size overlap temporal_size temporal_overlap",
    "EmptyLatentImage": "width height batch_size",
    "RepeatLatentBatch": "amount",
    "LatentFromBatch": "batch_index length",
    "LatentUpscale": "upscale_method width height crop",
    "LatentUpscaleBy": "upscale_method scale_by",
    "LatentRotate": "rotation",
    "LatentFlip": "flip_method",
    "LatentCrop": "width height x y",
    "LatentComposite": "x y feather",
    "LatentCompositeMasked": "x y resize_source",
    "LatentBlend": "blend_factor",
    "KSampler": "seed steps cfg sampler_name scheduler denoise",
    "DifferentialDiffusion": "strength",
    "ModelSamplingDiscrete": "sampling zsnr",
    "ModelMergeSimple": "ratio",
    "ModelMergeBlocks": "input middle out",
    "ModelMergeSubtract": "multiplier",
    "CLIPMergeSimple": "ratio",
    "CLIPMergeSubtract": "multiplier",
    "ControlNetLoader": "control_net_name",
    "DiffControlNetLoader": "control_net_name",
    "ControlNetApply": "strength",
    "ControlNetApplyAdvanced": "strength start_percent end_percent",
    "KSamplerAdvanced": "add_noise noise_seed steps cfg sampler_name scheduler start_at_step end_at_step "
    "return_with_leftover_noise",
    "ImageScale": "upscale_method width height crop",
    "ImageScaleBy": "upscale_method scale_by",
    "ImageScaleToTotalPixels": "upscale_method megapixels",
    "EmptyImage": "width height batch_size color",
    "ImageCompositeMasked": "x y resize_source",
    "ImagePadForOutpaint": "left top right bottom feathering",
    "ImageToMask": "channel",
    "SolidMask": "value width height",
    "CropMask": "x y width height",
    "MaskComposite": "x y operation",
    "FeatherMask": "left top right bottom",
    "GrowMask": "expand tapered_corners",
}


def test_widget_order_is_comfyuis():
    for name, node_class in STOCK.items():
        declared = [entry.name for entry in inputs_of(node_class).values() if entry.widget]
        assert declared == WIDGETS.get(name, "").split()


def test_numbers_count_files_of_the_same_name_alone(folders):
    save = STOCK["SaveImage"]()
    for prefix in ("2026", "a", "a_00007"):
        save.save_images(torch.zeros(1, 4, 4, 3), prefix)
    (shown,) = save.save_images(torch.zeros(1, 4, 4, 3), "b")["ui"]["images"]
    assert shown["filename"] == "b_00001_.png"


def test_a_linked_file_name_is_looked_up_when_it_is_known(folders):
    Image.fromarray(picture(8, 8, 3)).save(folders / "in" / "a.png")
    for name in ("LoadImage", "LoadImageMask"):
        assert STOCK[name].VALIDATE_INPUTS(None) is True
