"""Run by test_inside.py in ComfyUI's own Python: our MODEL, CLIP and VAE beside ComfyUI's, with the same weights.

Arguments: ComfyUI's folder, a folder with v1, v2-base, v2-inpaint and unclip-h.safetensors. Prints numbers as JSON; a
change of the model or of its conditioning gives two, its effect and its gap to the same change of ComfyUI's own model.
"""

import importlib
import json
import sys

from embedded import FOLDER, gap, node

# isort: split
import comfy.cldm.cldm
import comfy.clip_vision
import comfy.controlnet
import comfy.hooks
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.sample
import comfy.sd
import comfy.supported_models
import comfy.utils
import folder_paths
import torch
from pointwise import pointwise


def core_model(file, ours):
    """ComfyUI's own UNet with the file's weights, as its checkpoint loader builds it."""
    sizes = {k: v for k, v in ours.model.model_config.unet_config.items() if k != "disable_unet_model_creation"}
    kind = type(ours.model.model_config)
    config = kind({**sizes, "image_size": 32, "use_spatial_transformer": True, "legacy": False})
    if sizes["adm_in_channels"]:
        config.noise_aug_config = {**kind.noise_aug_config, "timestep_dim": sizes["adm_in_channels"] // 2}
        config.model_type = lambda *_: ours.model.model_type  # guessed from a layer that a narrow file lacks
    config.set_inference_dtype(torch.float32, None)
    weights = comfy.utils.load_torch_file(str(FOLDER / file))
    model = config.get_model(weights, "model.diffusion_model.", device="cpu")
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=torch.device("cpu"), offload_device="cpu")
    model.load_model_weights(weights, "model.diffusion_model.")
    return patcher


def core_node(module, name, **inputs):
    """Run one of ComfyUI's nodes, of the old or of the new kind of class; its outputs."""
    node_class = getattr(importlib.import_module(module), name)
    if hasattr(node_class, "define_schema"):
        return node_class.execute(**inputs).args
    return getattr(node_class(), node_class.FUNCTION)(**inputs)


def stock(model, positive, negative, noise, latent=None, mask=None):
    latent = torch.zeros_like(noise) if latent is None else latent
    return comfy.sample.sample(
        model, noise, 4, 5.0, "euler", "normal", positive, negative, latent, noise_mask=mask, seed=1
    )


def ours_on(model, positive, negative, latent=None):
    widgets = {"seed": 1, "steps": 4, "cfg": 5.0, "sampler_name": "ddim", "scheduler": "ldm", "denoise": 1.0}
    latent = latent or {"samples": torch.zeros(1, 4, 8, 8)}
    return node("SD2KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **widgets)[0][
        "samples"
    ]


def loras(model):
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
    return {style: {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up} for style, name in names.items()}


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


def of_model(module, name, **inputs):
    """A change by one of ComfyUI's nodes that takes a MODEL."""
    return lambda model, *sides: (core_node(module, name, model=model, **inputs)[0], *sides)


def beside(other, name, **inputs):
    """A change of the positive side: another prompt beside it, through one of ComfyUI's nodes."""

    def change(model, positive, negative):
        (placed,) = core_node("nodes", name, conditioning=other, **inputs)
        return model, [*positive, *placed], negative

    return change


def with_lora(file):
    return lambda model, *sides: (comfy.sd.load_lora_for_models(model, None, file, 0.8, 0.0)[0], *sides)


def with_hook(file):
    """A LoRA that holds for the positive side alone."""

    def change(model, positive, negative):
        hooks = comfy.hooks.create_hook_lora(file, 0.8, 0.0)
        return model, comfy.hooks.set_hooks_for_conditioning(positive, hooks), negative

    return change


def changes(model, other):
    """Every kind of change that ComfyUI's nodes make. other: a second prompt."""
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, :24] = 1
    net, files = control_net(model), loras(model)
    advanced = "comfy_extras.nodes_model_advanced"
    v = of_model(advanced, "ModelSamplingDiscrete", sampling="v_prediction", zsnr=True)
    return {
        "lora, ldm": with_lora(files["ldm"]),
        "lora, diffusers": with_lora(files["diffusers"]),
        "lora hook": with_hook(files["diffusers"]),
        "control": lambda model, *sides: (model, *(controlled(side, net) for side in sides)),
        "area": beside(other, "ConditioningSetArea", width=32, height=48, x=32, y=0, strength=0.8),
        "mask": beside(other, "ConditioningSetMask", mask=mask, set_cond_area="default", strength=1.0),
        "rescaled guidance": of_model(advanced, "RescaleCFG", multiplier=0.7),
        "v with zero terminal SNR": v,
        "FreeU": of_model("comfy_extras.nodes_freelunch", "FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
        "perturbed attention": of_model("comfy_extras.nodes_pag", "PerturbedAttentionGuidance", scale=3.0),
    }


def inpainting(model, vae, positive, negative, noise):
    """What ComfyUI's own inpainting node and both samplers make of a model: two latents."""
    generator = torch.Generator().manual_seed(9)
    picture, mask = torch.rand(1, 64, 64, 3, generator=generator), torch.zeros(1, 64, 64)
    mask[:, 16:40, 8:48] = 1
    positive, negative, latent = core_node(
        "nodes", "InpaintModelConditioning",
        positive=positive, negative=negative, pixels=picture, vae=vae, mask=mask, noise_mask=True,
    )  # fmt: skip
    return (
        stock(model, positive, negative, noise, latent["samples"], latent["noise_mask"]),
        ours_on(model, positive, negative, latent=latent),
    )


def repainted(model, positive, negative):
    """Which latent pixels (y, x) our sampler changes for a mask of pixels: a dot, and a slanted stroke of 2."""
    dot, stroke = torch.zeros(2, 1, 64, 64)
    dot[0, 29, 45] = 1
    for y in range(8, 40):
        stroke[0, y, y + 5 : y + 7] = 1
    kept, found = torch.full((1, 4, 8, 8), 2.0), {}
    for name, mask in {"dot": dot, "stroke": stroke}.items():
        (latent,) = core_node("nodes", "SetLatentNoiseMask", samples={"samples": kept}, mask=mask)
        changed = (ours_on(model, positive, negative, latent=latent) - kept).abs().amax((0, 1)) > 1e-4
        found[name] = changed.nonzero().tolist()
    return found


def streamed(model, positive):
    """What a model with a LoRA predicts when its weights are loaded whole, and when memory holds no layer of it."""
    comfy.model_management.unload_all_models()
    patcher, *_ = with_lora(loras(model)["ldm"])(model)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    cpu = torch.device("cpu")
    for budget in (0, 1):  # bytes, 0 for no limit
        patcher.patch_model(cpu, lowvram_model_memory=budget)
        assert bool(patcher.model.model_lowvram) == bool(budget)
        yield patcher.model.apply_model(x, torch.tensor([3.0]), c_crossattn=positive[0][0])
        patcher.unpatch_model(cpu)


def steps_after_cancelling(model, positive, negative):
    """How often the network still runs when Cancel is pressed during its second run."""
    management, calls = comfy.model_management, []

    def press(run, *args, **options):
        calls.append(1)
        if len(calls) == 2:
            management.interrupt_current_processing()
        return run(*args, **options)

    pressed = model.clone()
    pressed.add_wrapper(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, press)
    # what ComfyUI's server hangs on its progress bars
    comfy.utils.set_progress_bar_global_hook(lambda *_, **__: management.throw_exception_if_processing_interrupted())
    try:
        ours_on(pressed, positive, negative)
    except management.InterruptProcessingException:
        return len(calls) - 2
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    return "not cancelled"


@torch.inference_mode()  # as ComfyUI runs nodes
def tiles_of(vae):
    """How far ComfyUI's tiles are from the whole, with our autoencoder made to see one place at a time."""
    network = vae.first_stage_model
    vae.first_stage_model = pointwise(network)
    picture = torch.rand(1, 256, 320, 3, generator=torch.Generator().manual_seed(10))
    latent = vae.encode(picture)
    whole = vae.decode(latent)
    numbers = {
        "tiles, encoder": gap(latent, vae.encode_tiled(picture, tile_x=128, tile_y=128, overlap=32)),
        "tiles, decoder": gap(whole, vae.decode_tiled(latent, tile_x=16, tile_y=16, overlap=4)),
        "tiles, size": list(whole.shape),
        "tiles, contrast": min(float(whole.std(axis).min()) for axis in (1, 2)),
    }
    vae.first_stage_model = network
    return numbers


PROMPTS = {
    "weights": "a (red:1.3) house, [a (tree:0.5)] \\(left\\)",
    "length": "a red house beside a (blue:1.2) boat, " * 20,
    "nothing": "",
}


def text_gaps():
    """By kind and prompt, how far our text encoding without ComfyUI is from what is on ComfyUI's wires."""
    gaps = {}
    for kind in ("v1", "v2-base"):
        _, clip, *_ = node("SD2CheckpointLoader", ckpt_name=f"{kind}.safetensors")
        own = importlib.import_module("pack.backends.local").load_checkpoint(str(FOLDER / f"{kind}.safetensors"))
        for name, text in PROMPTS.items():
            (comfyui,) = core_node("nodes", "CLIPTextEncode", clip=clip, text=text)
            (ours,) = node("SD2CLIPTextEncode", clip=clip, text=text)
            (alone,) = node("SD2CLIPTextEncode", clip=own.clip, text=text)
            assert comfyui[0][0].shape[1] >= (154 if name == "length" else 77)
            gaps[f"{kind}, {name}"] = max(gap(comfyui[0][0], ours[0][0]), gap(comfyui[0][0], alone[0][0]))
    return gaps


def pictures_as_conditions(numbers, noise):
    """unCLIP: our model, image encoder and node beside ComfyUI's."""
    ours, clip, vae, encoder, *_ = node("SD2CheckpointLoader", ckpt_name="unclip-h.safetensors")
    core = core_model("unclip-h.safetensors", ours)
    pictures = torch.randint(256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(9)) / 255
    encoded = [
        core_node("nodes", "CLIPVisionEncode", clip_vision=encoder, image=picture[None], crop="center")[0]
        for picture in pictures
    ]
    # of the encoder's own size and in whole 255ths, where ComfyUI changes nothing either
    theirs = comfy.clip_vision.ClipVisionModel.encode_image(encoder, pictures[:1])
    for part in ("image_embeds", "last_hidden_state", "penultimate_hidden_states"):
        numbers[f"encoder, {part}"] = gap(encoded[0][part], theirs[part])
    numbers["pictures differ"] = gap(encoded[0].image_embeds, encoded[1].image_embeds)

    text, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a house", ""))

    def theirs_added(side, output, strength, noise_augmentation):
        values = {"strength": strength, "noise_augmentation": noise_augmentation}
        return core_node("nodes", "unCLIPConditioning", conditioning=side, clip_vision_output=output, **values)[0]

    def ours_added(weight):
        # with the noise that ComfyUI's node draws for a sampler of seed 1
        values = {"weight": weight, "noise_level": 300, "seed": 2**64 - 9}
        return node("SD2UnCLIPConditioning", conditioning=text, clip_vision_output=encoded[0], **values)[0]

    one = theirs_added(text, encoded[0], 1.0, 0.3)
    plain = stock(ours, one, negative, noise)
    numbers["unclip, stock node"] = gap(plain, stock(core, one, negative, noise))
    numbers["unclip effect"] = gap(plain, stock(ours, text, negative, noise))
    numbers["unclip, without a picture"] = gap(stock(ours, text, negative, noise), stock(core, text, negative, noise))
    numbers["unclip, our node"] = gap(stock(ours, ours_added(0.5), negative, noise), plain)
    numbers["unclip, our node on a ComfyUI model"] = gap(stock(core, ours_added(1.0), negative, noise), plain)
    numbers["unclip, our sampler"] = gap(ours_on(ours, ours_added(0.5), negative), ours_on(core, one, negative))
    mixed = theirs_added(ours_added(1.0), encoded[1], -0.4, 0.1)
    numbers["mix effect"] = gap(stock(ours, mixed, negative, noise), plain)

    comfy.sd.save_checkpoint(str(FOLDER / "saved_unclip.safetensors"), ours, clip, vae, encoder)
    folder_paths.filename_list_cache.clear()
    again, _, _, encoder_again, *_ = node("SD2CheckpointLoader", ckpt_name="saved_unclip.safetensors")
    numbers["saved unclip"] = gap(plain, stock(again, one, negative, noise))
    numbers["saved encoder"] = gap(encoder_again.encode_image(pictures[:1]).image_embeds, encoded[0].image_embeds)


@torch.no_grad()
def files_of_strangers(numbers, positive):
    """A text tower without the layer that nothing reads, and a UNet alone, as they come out of SD2 Load Checkpoint."""
    _, clip, *_ = node("SD2CheckpointLoader", ckpt_name="cut.safetensors")
    encoded = clip.encode_from_tokens_scheduled(clip.tokenize("a (red:1.3) house"))
    numbers["cut text"] = gap(positive[0][0], encoded[0][0])
    _, clip, vae, *_ = node("SD2CheckpointLoader", ckpt_name="unet.safetensors")
    numbers["refusals"] = []
    for use in (lambda: clip.tokenize("x"), lambda: vae.decode(torch.zeros(1, 4, 8, 8))):
        try:
            use()
        except ValueError as error:
            numbers["refusals"].append(str(error))


def main():
    numbers = {}
    ours, clip, vae, *_ = node("SD2CheckpointLoader", ckpt_name="v2-base.safetensors")
    core = core_model("v2-base.safetensors", ours)
    prompts = ("a (red:1.3) house", "", "a blue tree")
    positive, negative, other = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in prompts)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    plain = stock(ours, positive, negative, noise)
    numbers["stock sampler"] = gap(plain, stock(core, positive, negative, noise))
    numbers["our sampler"] = gap(ours_on(ours, positive, negative), ours_on(core, positive, negative))

    numbers["effects"], numbers["gaps"] = {}, {}
    for name, change in changes(ours, other).items():
        mine, theirs = change(ours, positive, negative), change(core, positive, negative)
        sampled = stock(*mine, noise)
        numbers["effects"][name] = gap(sampled, plain)
        numbers["gaps"][name] = gap(sampled, stock(*theirs, noise))
        numbers["gaps"][f"{name}, our sampler"] = gap(ours_on(*mine), ours_on(*theirs))
    numbers["changes undone"] = gap(plain, stock(ours, positive, negative, noise))

    calls = []
    wrapped = ours.clone()
    wrapped.add_wrapper(
        comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, lambda run, *a, **k: (calls.append(1), run(*a, **k))[1]
    )
    numbers["wrapper"] = gap(stock(wrapped, positive, negative, noise), plain)
    numbers["wrapper calls"] = len(calls)

    numbers["native"] = [
        isinstance(ours, getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)),
        isinstance(ours.model, comfy.model_base.BaseModel),
        type(clip) is comfy.sd.CLIP,
        type(vae) is comfy.sd.VAE,
        all(
            hasattr(m, "comfy_cast_weights")
            for m in ours.model.modules()
            if next(m.parameters(False), None) is not None
        ),
    ]
    numbers["repainted"] = repainted(ours, positive, negative)
    numbers["streamed"] = gap(*streamed(ours, positive))
    numbers["steps after cancelling"] = steps_after_cancelling(ours, positive, negative)
    numbers["after cancelling"] = gap(ours_on(ours, positive, negative), ours_on(core, positive, negative))

    inpaint, _, inpaint_vae, *_ = node("SD2CheckpointLoader", ckpt_name="v2-inpaint.safetensors")
    given = inpaint_vae, positive, negative, noise
    mine, theirs = inpainting(inpaint, *given), inpainting(core_model("v2-inpaint.safetensors", inpaint), *given)
    numbers["inpainting, stock sampler"], numbers["inpainting, our sampler"] = map(gap, mine, theirs)

    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(8))
    latent = vae.encode(picture)
    numbers |= tiles_of(vae)
    numbers["text"] = text_gaps()
    files_of_strangers(numbers, positive)

    pictures_as_conditions(numbers, noise)

    comfy.sd.save_checkpoint(str(FOLDER / "saved.safetensors"), ours.clone(), clip=clip, vae=vae)
    folder_paths.filename_list_cache.clear()
    again, clip_again, vae_again, *_ = node("SD2CheckpointLoader", ckpt_name="saved.safetensors")
    numbers["saved model"] = gap(plain, stock(again, positive, negative, noise))
    encoded = clip_again.encode_from_tokens_scheduled(clip_again.tokenize("a (red:1.3) house"))
    numbers["saved clip"] = gap(positive[0][0], encoded[0][0])
    numbers["saved vae"] = gap(latent, vae_again.encode(picture))
    return numbers


sys.stdout.write("\n" + json.dumps(main()) + "\n")
