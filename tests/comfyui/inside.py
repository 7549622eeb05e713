"""Run by test_inside.py in ComfyUI's own Python: our MODEL, CLIP and VAE beside ComfyUI's, with the same weights.

Arguments: ComfyUI's folder, a folder with v2-base.safetensors and v2-inpaint.safetensors. Prints numbers as JSON.
"""

import importlib
import json
import sys
from pathlib import Path

COMFYUI, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
sys.argv = [str(COMFYUI / "main.py"), "--cpu"]
sys.path[0] = str(COMFYUI)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.cldm.cldm  # noqa: E402
import comfy.controlnet  # noqa: E402
import comfy.hooks  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.patcher_extension  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402

folder_paths.add_model_folder_path("checkpoints", str(FOLDER), is_default=True)

ROOT = Path(__file__).parent.parent.parent
spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
NODES = pack.NODE_CLASS_MAPPINGS


def node(name, **inputs):
    return getattr(NODES[name](), NODES[name].FUNCTION)(**inputs)


def core_model(file, ours):
    """ComfyUI's own UNet with the file's weights, as its checkpoint loader builds it."""
    sizes = {k: v for k, v in ours.model.model_config.unet_config.items() if k != "disable_unet_model_creation"}
    config = comfy.supported_models.SD20({**sizes, "image_size": 32, "use_spatial_transformer": True, "legacy": False})
    config.set_inference_dtype(torch.float32, None)
    weights = comfy.utils.load_torch_file(str(FOLDER / file))
    model = config.get_model(weights, "model.diffusion_model.", device="cpu")
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=torch.device("cpu"), offload_device="cpu")
    model.load_model_weights(weights, "model.diffusion_model.")
    return patcher


def stock(model, positive, negative, noise):
    latent = torch.zeros_like(noise)
    return comfy.sample.sample(model, noise, 4, 5.0, "euler", "normal", positive, negative, latent, seed=1)


def ours_on(model, positive, negative, **values):
    widgets = {"seed": 1, "steps": 4, "cfg": 5.0, "sampler_name": "ddim", "scheduler": "ldm", "denoise": 1.0, **values}
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    return node("SD2KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **widgets)[0][
        "samples"
    ]


def gap(a, b):
    return float((a - b).abs().max())


def lora(model, clip):
    """The same change of one layer under the ldm and the diffusers name."""
    generator = torch.Generator().manual_seed(5)
    layer = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2.to_q
    out, into = layer.weight.shape
    down = torch.randn(4, into, generator=generator) * into**-0.5
    up = torch.randn(out, 4, generator=generator)
    names = {
        "ldm": "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_q",
        "diffusers": "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q",
    }
    files = {k: {f"{n}.lora_down.weight": down, f"{n}.lora_up.weight": up} for k, n in names.items()}
    return {k: comfy.sd.load_lora_for_models(model, clip, file, 0.8, 0.8)[0] for k, file in files.items()}


def control_net(model):
    """A ControlNet of the model's sizes with random weights."""
    sizes = dict(model.model.model_config.unet_config)
    for key in ("disable_unet_model_creation", "out_channels", "transformer_depth_output", "dtype"):
        sizes.pop(key, None)
    torch.manual_seed(6)
    network = comfy.cldm.cldm.ControlNet(
        **sizes, image_size=32, hint_channels=3, use_spatial_transformer=True, operations=comfy.ops.disable_weight_init
    )
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    return comfy.controlnet.ControlNet(
        network, load_device=torch.device("cpu"), manual_cast_dtype=None, compression_ratio=8
    )


def controlled(conditioning, net):
    hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    control = net.copy().set_cond_hint(hint, 1.0, (0.0, 1.0))
    return [
        [context, {**options, "control": control, "control_apply_to_uncond": True}]
        for context, options in conditioning
    ]


@torch.no_grad()
def main():
    numbers = {}
    ours, clip, vae, *_ = node("SD2CheckpointLoader", ckpt_name="v2-base.safetensors")
    core = core_model("v2-base.safetensors", ours)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a (red:1.3) house", ""))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    plain = stock(ours, positive, negative, noise)
    numbers["stock sampler"] = gap(plain, stock(core, positive, negative, noise))
    numbers["our sampler"] = gap(ours_on(ours, positive, negative), ours_on(core, positive, negative))
    v = ours.clone()
    numbers["pictures"] = gap(plain, torch.zeros_like(plain))

    patched = {name: stock(model, positive, negative, noise) for name, model in lora(ours, clip).items()}
    numbers["lora namings"] = gap(patched["ldm"], patched["diffusers"])
    numbers["lora effect"] = gap(patched["ldm"], plain)
    numbers["lora"] = gap(patched["ldm"], stock(lora(core, clip)["ldm"], positive, negative, noise))
    numbers["lora removed"] = gap(plain, stock(ours, positive, negative, noise))

    net = control_net(ours)
    sides = controlled(positive, net), controlled(negative, net)
    with_control = stock(ours, *sides, noise)
    numbers["control effect"] = gap(with_control, plain)
    numbers["control"] = gap(with_control, stock(core, *sides, noise))
    numbers["control, our sampler"] = gap(ours_on(ours, *sides), ours_on(core, *sides))

    calls = []
    wrapped = ours.clone()
    wrapped.add_wrapper(
        comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, lambda run, *a, **k: (calls.append(1), run(*a, **k))[1]
    )
    numbers["wrapper"] = gap(stock(wrapped, positive, negative, noise), plain)
    numbers["wrapper calls"] = len(calls)

    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(8))
    latent = vae.encode(picture)
    numbers["vae tiles"] = gap(vae.decode(latent), vae.decode_tiled(latent, tile_x=64, tile_y=64, overlap=8))

    comfy.sd.save_checkpoint(str(FOLDER / "saved.safetensors"), v, clip=clip, vae=vae)
    folder_paths.filename_list_cache.clear()
    again, clip_again, vae_again, *_ = node("SD2CheckpointLoader", ckpt_name="saved.safetensors")
    numbers["saved model"] = gap(plain, stock(again, positive, negative, noise))
    encoded = clip_again.encode_from_tokens_scheduled(clip_again.tokenize("a (red:1.3) house"))
    numbers["saved clip"] = gap(positive[0][0], encoded[0][0])
    numbers["saved vae"] = gap(latent, vae_again.encode(picture))
    return numbers


sys.stdout.write("\n" + json.dumps(main()) + "\n")
