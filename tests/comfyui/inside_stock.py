"""Run by test_stock_inside.py in ComfyUI's own Python: the stand-ins beside the stock nodes they stand in for.

Arguments: ComfyUI's folder, the folder checkpoints of a models folder. Prints numbers as JSON.
"""

import importlib
import json
import sys
from pathlib import Path

from embedded import FOLDER, gap, node, pack

# isort: split
import comfy.clip_vision
import comfy.samplers
import folder_paths
import torch
from safetensors.torch import save_file
from spandrel.architectures.ESRGAN import ESRGAN

import nodes as core_nodes

stock = importlib.import_module("pack.headless.stock")
core_sampler = importlib.import_module("pack.headless.stock.core_sampler")
core_schedules = importlib.import_module("pack.headless.stock.core_schedules")
folders = importlib.import_module("pack.backends.folders")
local = importlib.import_module("pack.backends.local")
inputs = importlib.import_module("pack.headless.inputs")
clip_image = importlib.import_module("pack.models.clip_image")
specs = importlib.import_module("pack.models.specs")
assert pack

EXTRAS = (
    "mask",
    "latent",
    "sdupscale",
    "post_processing",
    "preview_any",
    "upscale_model",
    "differential_diffusion",
    "model_merging",
    "model_advanced",
)
OURS, NAMES = stock.NODE_CLASS_MAPPINGS, stock.NODE_DISPLAY_NAME_MAPPINGS
generator = torch.Generator().manual_seed(0)


def rand(*shape):
    return torch.rand(shape, generator=generator)


def randn(*shape):
    return torch.randn(shape, generator=generator)


def core_class(name):
    for module in ("nodes", *(f"comfy_extras.nodes_{extra}" for extra in EXTRAS)):
        loaded = importlib.import_module(module)
        found = getattr(loaded, "NODE_CLASS_MAPPINGS", {}).get(name) or getattr(loaded, name, None)
        if found is not None:
            return found
    raise KeyError(name)


def core(name, **values):
    node_class = core_class(name)
    if hasattr(node_class, "define_schema"):
        return node_class.execute(**values).args
    return getattr(node_class(), node_class.FUNCTION)(**values)


def ours(name, **values):
    return getattr(OURS[name](), OURS[name].FUNCTION)(**values)


FILES = {
    "ckpt_name",
    "vae_name",
    "lora_name",
    "unet_name",
    "clip_name",
    "model_name",
    "control_net_name",
    "image",
}  # lists of files
ORDERLESS = {"sampler_name", "scheduler"}  # ours come first


def schema(node_class):
    """Inputs in order: name, type, and the options that values depend on."""
    described = []
    for entry in inputs.inputs_of(node_class).values():
        keep = {key: entry.options[key] for key in ("default", "min", "max") if key in entry.options}
        if entry.type == "COMBO" and entry.name not in FILES:
            keep["choices"] = sorted(entry.choices) if entry.name in ORDERLESS else entry.choices
            keep.pop("default", None)
        described.append([entry.name, entry.type, entry.required, keep])
    return described


def schema_differences():
    """What the stand-ins declare otherwise than ComfyUI, by node."""
    found = {}
    for name, mine in OURS.items():
        theirs = core_class(name)
        known = (
            core_nodes.NODE_DISPLAY_NAME_MAPPINGS
            | importlib.import_module("comfy_extras.nodes_mask").NODE_DISPLAY_NAME_MAPPINGS
        )
        pairs = {
            "inputs": (schema(mine), schema(theirs)),
            "outputs": (list(mine.RETURN_TYPES), list(theirs.RETURN_TYPES)),
            "name": (NAMES.get(name, name), known.get(name, NAMES.get(name, name))),
        }
        different = {what: pair for what, pair in pairs.items() if pair[0] != pair[1]}
        if different:
            found[name] = different
    return found


def values_of(result):
    """Every tensor of a node's outputs, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, dict):
        return [tensor for key in sorted(result) for tensor in values_of(result[key])]
    if isinstance(result, (list, tuple)):
        return [tensor for item in result for tensor in values_of(item)]
    return [torch.tensor(float(result))] if isinstance(result, (int, float)) else []


def largest_gap(mine, theirs):
    pairs = list(zip(values_of(mine), values_of(theirs), strict=True))
    assert pairs
    return max(gap(a.float(), b.float()) for a, b in pairs)


class PlainVAE:
    """An autoencoder that averages blocks of 8 x 8 pixels, cut as ComfyUI's VAE cuts."""

    downscale_ratio = 8

    def encode(self, pixels):
        x = pixels[..., :3].movedim(-1, 1)
        height, width = (length // 8 * 8 for length in x.shape[2:])
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        x = x[:, :, top : top + height, left : left + width]
        x = torch.nn.functional.avg_pool2d(x, 8)
        return torch.cat([x, x.mean(1, keepdim=True)], 1)


class Embeddings:
    def __init__(self, image_embeds):
        self.image_embeds = image_embeds


def cases():
    """(node, inputs) of nodes that only compute."""
    image, other, soft = rand(2, 37, 53, 3), rand(1, 20, 31, 3), rand(1, 37, 53)
    masks, small = rand(2, 24, 30), rand(1, 9, 12)
    latent, second = {"samples": randn(2, 4, 12, 16)}, {"samples": randn(2, 4, 7, 6)}
    text = [[randn(1, 77, 8), {"strength": 0.7}], [randn(1, 154, 8), {}]]
    prompt, longer = [[randn(1, 77, 8), {}]], [[randn(1, 231, 8), {}]]
    for method in ("nearest-exact", "bilinear", "area", "bicubic", "lanczos"):
        yield "ImageScaleBy", {"image": image, "upscale_method": method, "scale_by": 0.73}
        yield "ImageScaleToTotalPixels", {"image": image, "upscale_method": method, "megapixels": 0.01}
    yield "ImageInvert", {"image": image}
    yield "ImageBatch", {"image1": image, "image2": other}
    yield "EmptyImage", {"width": 5, "height": 3, "batch_size": 2, "color": 0x123456}
    for expand in (-3, 0, 4):
        for tapered in (True, False):
            yield "GrowMask", {"mask": masks, "expand": expand, "tapered_corners": tapered}
    for sides in ((3, 0, 0, 0), (0, 0, 4, 0), (5, 6, 7, 8), (40, 40, 40, 40)):
        yield "FeatherMask", {"mask": masks, **dict(zip(("left", "top", "right", "bottom"), sides, strict=True))}
    yield "SolidMask", {"value": 0.3, "width": 7, "height": 5}
    yield "CropMask", {"mask": masks, "x": 4, "y": 20, "width": 11, "height": 12}
    for operation in ("multiply", "add", "subtract", "and", "or", "xor"):
        yield "MaskComposite", {"destination": masks, "source": small, "x": 25, "y": 3, "operation": operation}
    for method in ("nearest-exact", "bilinear", "area", "bicubic", "bislerp"):
        for crop in ("disabled", "center"):
            size = {"width": 200, "height": 64, "crop": crop}
            yield "LatentUpscale", {"samples": latent, "upscale_method": method, **size}
        yield "LatentUpscaleBy", {"samples": latent, "upscale_method": method, "scale_by": 1.31}
    yield (
        "LatentUpscale",
        {"samples": latent, "upscale_method": "bilinear", "width": 0, "height": 72, "crop": "disabled"},
    )
    for rotation in ("none", "90 degrees", "180 degrees", "270 degrees"):
        yield "LatentRotate", {"samples": latent, "rotation": rotation}
    for flip in ("x-axis: vertically", "y-axis: horizontally"):
        yield "LatentFlip", {"samples": latent, "flip_method": flip}
    yield "LatentCrop", {"samples": latent, "width": 64, "height": 72, "x": 120, "y": 16}
    for x, y, feather in ((0, 0, 0), (24, 16, 0), (24, 16, 24), (80, 64, 40), (0, 16, 40)):
        yield "LatentComposite", {"samples_to": latent, "samples_from": second, "x": x, "y": y, "feather": feather}
    for resize_source, mask in ((False, None), (False, soft), (True, soft)):
        given = {"destination": latent, "source": second, "x": 40, "y": 24, "resize_source": resize_source}
        yield "LatentCompositeMasked", {**given, "mask": mask}
    yield "LatentBlend", {"samples1": latent, "samples2": second, "blend_factor": 0.3}
    batch = {"samples": randn(4, 4, 8, 8), "noise_mask": rand(2, 1, 8, 8)}
    yield "LatentFromBatch", {"samples": batch, "batch_index": 1, "length": 2}
    yield "LatentFromBatch", {"samples": {**batch, "batch_index": [3, 5, 7, 9]}, "batch_index": 2, "length": 9}
    yield "ConditioningCombine", {"conditioning_1": text, "conditioning_2": prompt}
    for pair in ((text, longer), (longer, text)):
        sides = dict(zip(("conditioning_to", "conditioning_from"), pair, strict=True))
        yield "ConditioningAverage", {**sides, "conditioning_to_strength": 0.4}
        yield "ConditioningConcat", sides
    area = {"width": 128, "height": 64, "x": 8, "y": 16, "strength": 1.2}
    yield "ConditioningSetArea", {"conditioning": text, **area}
    area = {"width": 0.5, "height": 0.25, "x": 0.1, "y": 0.2, "strength": 1.2}
    yield "ConditioningSetAreaPercentage", {"conditioning": text, **area}
    yield "ConditioningSetAreaStrength", {"conditioning": text, "strength": 0.3}
    mask = {"mask": soft, "strength": 0.6, "set_cond_area": "mask bounds"}
    yield "ConditioningSetMask", {"conditioning": text, **mask}
    yield "ConditioningZeroOut", {"conditioning": text}
    yield "ConditioningSetTimestepRange", {"conditioning": text, "start": 0.1, "end": 0.7}
    vae, picture = PlainVAE(), {"pixels": image, "vae": PlainVAE(), "mask": rand(1, 20, 30)}
    for grow in (0, 1, 6, 7):
        yield "VAEEncodeForInpaint", {**picture, "grow_mask_by": grow}
    for noise_mask in (True, False):
        sides = {"positive": prompt, "negative": text, "vae": vae, "noise_mask": noise_mask}
        yield "InpaintModelConditioning", {**sides, "pixels": image, "mask": soft}
    for ratio in (4.0, 2.3):
        sides = {"positive": prompt, "negative": text, "scale_ratio": ratio, "noise_augmentation": 0.1}
        yield "SD_4XUpscale_Conditioning", {**sides, "images": image}
    output = {"clip_vision_output": Embeddings(randn(2, 6)), "strength": 0.5, "noise_augmentation": 0.1}
    yield "unCLIPConditioning", {"conditioning": text, **output}


def schedule_gaps(model, here):
    """The largest difference of the noise levels, by scheduler."""
    sampling = model.get_model_object("model_sampling")
    return {
        name: max(
            gap(ours_of(here.schedule, steps), comfy.samplers.calculate_sigmas(sampling, name, steps))
            for steps in (2, 5, 20, 30)
        )
        for name, ours_of in core_schedules.SCHEDULERS.items()
    }


def relative(mine, theirs):
    """The largest difference in standard deviations: a random network's latents have any scale."""
    return gap(mine, theirs) / max(float(theirs.std()), 1.0)


WIDGETS = {"steps": 4, "cfg": 3.0}


def both_sampled(name, model, here, **values):
    """(the stand-in's latent, ComfyUI's)."""
    return (
        ours(name, model=here, **WIDGETS | values)[0]["samples"],
        core(name, model=model, **WIDGETS | values)[0]["samples"],
    )


def sampler_gaps(model, here, positive, negative):
    picture = {"samples": 3 * randn(2, 4, 8, 8)}
    masked = {**picture, "noise_mask": (rand(1, 1, 64, 64) > 0.5).float()}
    sides = {"positive": positive, "negative": negative}
    empty = {"samples": torch.zeros(2, 4, 8, 8)}
    numbers = {}
    for name in core_sampler.CORE_SAMPLERS:
        for what, latent, denoise, scheduler in (
            ("whole", empty, 1.0, "karras"),
            ("partial", picture, 0.6, "normal"),
            ("masked", masked, 0.8, "simple"),
        ):
            values = {"seed": 7, "sampler_name": name, "scheduler": scheduler, "denoise": denoise}
            pair = both_sampled("KSampler", model, here, **sides, **values, latent_image=latent)
            numbers[f"{name}, {what}"] = relative(*pair)
    for scheduler in core_schedules.SCHEDULERS:
        values = {"seed": 7, "sampler_name": "dpmpp_sde", "scheduler": scheduler, "denoise": 1.0}
        pair = both_sampled("KSampler", model, here, **sides, **values, latent_image=empty)
        numbers[f"dpmpp_sde, {scheduler}"] = relative(*pair)
    for name in ("euler", "dpmpp_2m_sde", "uni_pc"):
        for noise, start, end, leftover in (
            ("enable", 0, 3, "enable"),
            ("disable", 3, 10000, "disable"),
            ("enable", 1, 4, "disable"),
        ):
            values = {"add_noise": noise, "start_at_step": start, "end_at_step": end, "noise_seed": 5, "steps": 6}
            values |= {"return_with_leftover_noise": leftover, "sampler_name": name, "scheduler": "normal"}
            pair = both_sampled("KSamplerAdvanced", model, here, **sides, **values, latent_image=picture)
            numbers[f"{name}, advanced {noise} {start}-{end}"] = relative(*pair)
    return numbers


def placed(positive, other):
    """Conditionings of several entries, by what they try."""

    def by(name, conditioning, **values):
        return ours(name, conditioning=conditioning, **values)[0]

    corner = {"width": 64, "height": 64, "x": 64, "y": 0, "strength": 1.3}
    share = {"width": 0.5, "height": 0.6, "x": 0.25, "y": 0.4, "strength": 0.8}
    shape = {"mask": torch.zeros(1, 128, 192), "strength": 0.7}
    shape["mask"][:, 30:90, 60:150] = 0.9
    return {
        "two prompts": [*positive, *by("ConditioningSetAreaStrength", other, strength=0.5)],
        "area": [*positive, *by("ConditioningSetArea", other, **corner)],
        "share": [*positive, *by("ConditioningSetAreaPercentage", other, **share)],
        "only an area": by("ConditioningSetArea", other, **corner),
        "mask": [*positive, *by("ConditioningSetMask", other, **shape, set_cond_area="default")],
        "mask bounds": [*positive, *by("ConditioningSetMask", other, **shape, set_cond_area="mask bounds")],
        "range": [
            *by("ConditioningSetTimestepRange", positive, start=0.0, end=0.4),
            *by("ConditioningSetTimestepRange", other, start=0.4, end=1.0),
        ],
        "no prompt at the end": by("ConditioningSetTimestepRange", positive, start=0.0, end=0.5),
    }


def region_gaps(model, here, positive, negative, other):
    latent = {"samples": torch.zeros(2, 4, 16, 24)}
    values = {"seed": 3, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, "latent_image": latent}
    plain = both_sampled("KSampler", model, here, positive=positive, negative=negative, **values)[0]
    numbers = {}
    for what, conditioning in placed(positive, other).items():
        for side in ("positive", "negative"):
            sides = {"positive": positive, "negative": negative, side: conditioning}
            mine, theirs = both_sampled("KSampler", model, here, **sides, **values)
            numbers[f"{what}, {side}"] = [relative(mine, theirs), relative(plain, theirs)]
        mine, theirs = both_sampled(
            "KSampler", model, here, positive=conditioning, negative=conditioning, **values | {"cfg": 1.0}
        )
        numbers[f"{what}, cfg 1"] = [relative(mine, theirs), relative(plain, theirs)]
    return numbers


@torch.inference_mode()
def main():
    numbers = {"schemas": schema_differences(), "nodes": {}}
    for name, values in cases():
        numbers["nodes"][name] = max(
            numbers["nodes"].get(name, 0.0), largest_gap(ours(name, **values), core(name, **values))
        )
    with folders.using(folders.Folders(models=FOLDER.parent)):
        model = node("SD2CheckpointLoader", ckpt_name="v2-base.safetensors")[0]
        loaded = local.load_checkpoint("v2-base.safetensors")
        texts = ("a (red:1.3) house", "", "a blue tree")
        positive, negative, other = (
            loaded.clip.encode_from_tokens_scheduled(loaded.clip.tokenize(text)) for text in texts
        )
        numbers["sigmas"] = schedule_gaps(model, loaded.model)
        numbers["samplers"] = sampler_gaps(model, loaded.model, positive, negative)
        numbers["regions"] = region_gaps(model, loaded.model, positive, negative, other)
        numbers["pictures"] = picture_gaps()
        numbers["upscaled"] = upscaled_gaps()
        numbers["image encoders"] = image_encoder_gaps()
    return numbers


def random_weights(network):
    """Weights that keep activations near 1."""
    for name, parameter in network.named_parameters():
        level = float(parameter.ndim == 1 and name.endswith("weight"))  # of norms
        width = parameter[0].numel() if parameter.ndim > 1 else 100
        parameter.copy_(level + randn(*parameter.shape) * width**-0.5)
    return network


def upscaled_gaps():
    """[gap, contrast] of pictures that an upscale model enlarged, by its file; both sides in one tile or several."""
    network = random_weights(ESRGAN(num_filters=8, num_blocks=1, scale=2))
    network.model[-1].bias += 0.5
    state = network.state_dict()
    files = {
        "plain.safetensors": lambda path: save_file(state, path),
        "BasicSR's.pth": lambda path: torch.save({"params_ema": state}, path),
        "two sets.pth": lambda path: torch.save({"params": {}, "params_ema": state}, path),
    }
    place = FOLDER.parent / "upscale_models"
    place.mkdir()
    folder_paths.add_model_folder_path("upscale_models", str(place))
    numbers = {}
    for name, write in files.items():
        write(place / name)
        models = ours("UpscaleModelLoader", model_name=name)[0], core("UpscaleModelLoader", model_name=name)[0]
        for height, width in ((40, 61), (600, 1050)) if name == "plain.safetensors" else ((16, 16),):
            image = rand(2, height, width, 3)
            pair = [
                run("ImageUpscaleWithModel", upscale_model=model, image=image)[0]
                for run, model in zip((ours, core), models, strict=True)
            ]
            numbers[f"{name}, {height} x {width}"] = [gap(*pair), float(pair[1].std())]
    return numbers


def image_encoder_gaps():
    """[gap, contrast] of embeddings, by file: narrow towers of ViT-H's and ViT-L's depth, which ComfyUI goes by."""
    place = FOLDER.parent / "clip_vision"
    place.mkdir()
    folder_paths.add_model_folder_path("clip_vision", str(place))
    numbers, whole = {}, comfy.clip_vision.ClipVisionModel
    image = (rand(2, 32, 32, 3) * 255).round() / 255  # of the encoders' size, where both prepare it alike
    for name, width, layers in (("H", 80, 32), ("L", 64, 24)):
        sizes = {"width": width, "head_width": width, "layers": layers, "patch_size": 8, "image_size": 32}
        tower = random_weights(clip_image.ImageTower(specs.ImageSpec(**sizes, embed_dim=48)))
        state = {key: tensor.half() for key, tensor in tower.state_dict().items()}  # what ComfyUI keeps

        def narrow(config, tower=tower):
            """ComfyUI's choice, with its depth and activation, at our width."""
            values = json.loads(Path(config).read_text())
            own = clip_image.hugging_face_config(tower.spec)
            assert values["num_hidden_layers"] == own["num_hidden_layers"]
            path = place / "config.json"
            path.write_text(json.dumps(own | {"hidden_act": values["hidden_act"]}))
            return whole(str(path))

        comfy.clip_vision.ClipVisionModel = narrow
        for names, tensors in (
            ("open_clip", state),
            ("transformers", comfy.clip_vision.convert_to_transformers(dict(state), "visual.")),
        ):
            file = f"{name} {names}.safetensors"
            save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, place / file)
            pair = []
            for run in (ours, core):
                (encoder,) = run("CLIPVisionLoader", clip_name=file)
                (seen,) = run("CLIPVisionEncode", clip_vision=encoder, image=image, crop="none")
                pair.append(seen.image_embeds.float())
            numbers[file] = [gap(*pair), float(pair[1].std())]
        comfy.clip_vision.ClipVisionModel = whole
    return numbers


def picture_gaps():
    """Models that take pictures, conditioned by the stand-ins here and sampled in both."""
    numbers = {}
    values = {"seed": 3, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    for kind in ("v2-inpaint", "unclip-h", "x4"):
        model, vae = (node("SD2CheckpointLoader", ckpt_name=f"{kind}.safetensors")[i] for i in (0, 2))
        here = local.load_checkpoint(f"{kind}.safetensors")
        positive, negative = (
            here.clip.encode_from_tokens_scheduled(here.clip.tokenize(text)) for text in ("a house", "")
        )
        image, mask = rand(1, 64, 64, 3), (rand(1, 64, 64) > 0.6).float()
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        if kind == "v2-inpaint":
            picture = {"pixels": image, "mask": mask}
            mine = ours("InpaintModelConditioning", positive=positive, negative=negative, vae=here.vae, **picture)
            theirs = core("InpaintModelConditioning", positive=positive, negative=negative, vae=vae, **picture)
            grown = {"vae": here.vae, "grow_mask_by": 6, **picture}
            encoded = ours("VAEEncodeForInpaint", **grown)[0]
            sides = {"positive": positive, "negative": negative, "latent_image": encoded}
            numbers["inpainting without a condition"] = relative(
                *both_sampled("KSampler", model, here.model, **sides, **values)
            )
        elif kind == "unclip-h":
            outputs = [Embeddings(randn(1, 64)), Embeddings(randn(1, 64))]
            added = positive
            for output, strength in zip(outputs, (1.0, 0.6), strict=True):
                picture = {"clip_vision_output": output, "strength": strength, "noise_augmentation": 0.2}
                (added,) = ours("unCLIPConditioning", conditioning=added, **picture)
            mine = theirs = (added, negative, latent)
        else:
            picture = {"images": image, "scale_ratio": 2.0, "noise_augmentation": 0.3}
            mine = theirs = ours("SD_4XUpscale_Conditioning", positive=positive, negative=negative, **picture)
        names = ("positive", "negative", "latent_image")
        sampled = ours("KSampler", model=here.model, **WIDGETS, **dict(zip(names, mine, strict=True)), **values)[0]
        expected = core("KSampler", model=model, **WIDGETS, **dict(zip(names, theirs, strict=True)), **values)[0]
        numbers[kind] = relative(sampled["samples"], expected["samples"])
    return numbers


sys.stdout.write("\n" + json.dumps(main()) + "\n")
