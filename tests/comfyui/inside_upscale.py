"""Run by test_upscale_inside.py in ComfyUI's own Python: the x4 upscaler, ours and ComfyUI's with the same weights.

Arguments: ComfyUI's folder, a folder with x4.safetensors and v2-base.safetensors. Prints numbers as JSON, and writes
pictures.safetensors.
"""

import json
import sys

from embedded import FOLDER, gap, node

# isort: split
import comfy.model_patcher
import comfy.sample
import comfy.supported_models
import comfy.utils
import torch
from comfy_extras.nodes_sdupscale import SD_4XUpscale_Conditioning
from safetensors.torch import save_file

upscale = sys.modules["pack.pipeline.upscale"]
SEED = 101  # of the sampler; ComfyUI draws the picture's noise from the seed 10 below it


def core_model(ours):
    """ComfyUI's own x4 upscaler with the file's weights; its checkpoint loader knows the published width only."""
    config = comfy.supported_models.SD_X4Upscaler(dict(ours.model.model_config.unet_config))
    del config.unet_config["disable_unet_model_creation"]
    spec = ours.model.sd2_spec.unet
    config.unet_config |= {"image_size": 32, "use_spatial_transformer": True, "legacy": False}
    # what its class fixes for four levels
    attention = [not attends for attends in spec.self_attention]
    config.unet_config |= {"disable_self_attentions": attention, "num_classes": spec.num_classes}
    config.set_inference_dtype(torch.float32, None)
    weights = comfy.utils.load_torch_file(str(FOLDER / "x4.safetensors"))
    model = config.get_model(weights, "model.diffusion_model.", device="cpu")
    model.load_model_weights(weights, "model.diffusion_model.")
    return comfy.model_patcher.ModelPatcher(model, load_device=torch.device("cpu"), offload_device="cpu")


def stock(model, positive, negative, latent):
    noise = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(SEED))
    given = (positive, negative, latent["samples"])
    return comfy.sample.sample(model, noise, 4, 5.0, "euler", "normal", *given, seed=SEED)


def ours_on(model, *given):
    return node("SD2KSampler", model, SEED, 4, 5.0, "ddim", "ldm", *given)[0]["samples"]


@torch.no_grad()
def main():
    numbers = {}
    ours, clip, vae, *_ = node("SD2CheckpointLoader", "x4.safetensors")
    core = core_model(ours)
    image = torch.rand(1, 24, 40, 3, generator=torch.Generator().manual_seed(8))
    sides = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red house", "")]
    given = node("SD2UpscaleConditioning", *sides, image, noise_level=50, seed=SEED - 10)
    theirs = SD_4XUpscale_Conditioning.execute(image, *sides, 4.0, 50 / 350).args

    whole, with_stock = ours_on(ours, *given), stock(ours, *given)
    numbers["our node, stock sampler, core's model"] = gap(with_stock, stock(core, *given))
    numbers["our node, our sampler, core's model"] = gap(whole, ours_on(core, *given))
    numbers["core's node, stock sampler, our model"] = gap(with_stock, stock(ours, *theirs))
    numbers["core's node, our sampler, our model"] = gap(whole, ours_on(ours, *theirs))
    other = node("SD2UpscaleConditioning", *sides, image, noise_level=50, seed=1)
    numbers["seed effect"] = gap(with_stock, stock(ours, *other))

    area = ours.model.memory_required([2, 4, 256, 256])
    numbers["memory of a larger picture"] = ours.model.memory_required([2, 4, 2000, 3000]) / area
    upscale.TILE, upscale.OVERLAP = 16, 8
    tiles, stock_tiles = ours_on(ours, *given), stock(ours, *given)
    numbers["tiles, our sampler, core's model"] = gap(tiles, ours_on(core, *given))
    numbers["tiles effect"] = gap(tiles, whole)
    numbers["stock tiles effect"] = gap(stock_tiles, with_stock)
    plain = node("SD2CheckpointLoader", "v2-base.safetensors")[0]
    deep = [[[given[0][0][0], {**given[0][0][1], "concat_depth": torch.zeros(1, 1, 8, 8)}]], given[1]]
    wrong = {"no picture": (ours, given[0], sides[1]), "plain model": (plain, *given[:2]), "depth map": (ours, *deep)}
    for what, refused in wrong.items():
        try:
            stock(*refused, given[2])
        except ValueError as error:
            numbers[what] = str(error)

    latents = {"whole": whole, "stock": with_stock, "tiles": tiles, "stock tiles": stock_tiles}
    pictures = {name: node("SD2VAEDecode", {"samples": latent}, vae)[0] for name, latent in latents.items()}
    save_file({name: picture.contiguous() for name, picture in pictures.items()}, FOLDER / "pictures.safetensors")
    return numbers


sys.stdout.write("\n" + json.dumps(main()) + "\n")
