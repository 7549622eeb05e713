"""Narrow checkpoints of every kind, in the key layout of the official files."""

from dataclasses import replace
from functools import cache

import torch
from safetensors.torch import save_file
from sd2_family.models.autoencoder import AutoencoderKL
from sd2_family.models.clip_image import ImageTower
from sd2_family.models.clip_text import CLIPText, OpenCLIPText
from sd2_family.models.midas import DPTHybrid
from sd2_family.models.noise_augmentation import NoiseAugmentation
from sd2_family.models.specs import SPECS, DepthSpec
from sd2_family.models.unet import UNet

SCHEDULE_BUFFERS = (
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "betas",
    "log_one_minus_alphas_cumprod",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_variance",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
)
VECTOR_DIMS = {"unclip-h": 128, "unclip-l": 96}  # H: twice the context's width, as in the official file
DEPTH = DepthSpec(
    stem=32, channels=(128, 128, 256), depths=(1, 2, 1), width=64, layers=4, heads=1, grid=4, features=32
)


def tiny_spec(kind):
    """The kind's spec at 64 channels, two UNet levels and one-head towers; the VAE keeps its factor."""
    spec = SPECS[kind]
    image = spec.image and replace(
        spec.image,
        width=spec.image.head_width,
        layers=3,
        patch_size=8,
        image_size=32,
        embed_dim=VECTOR_DIMS[kind] // 2,
    )
    unet = replace(
        spec.unet,
        model_channels=64,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention=(kind != "x4", True),
        self_attention=(kind != "x4", True),
        context_dim=64,
        vector_dim=VECTOR_DIMS.get(kind),
        num_classes=400 if kind == "x4" else None,
    )
    mult = (1, 1, 2, 2)[-len(spec.autoencoder.channel_mult) :]
    autoencoder = replace(spec.autoencoder, channels=32, channel_mult=mult, num_res_blocks=1)
    text = replace(spec.text, width=64, layers=3, heads=1)
    depth = spec.depth and DEPTH
    return replace(spec, unet=unet, autoencoder=autoencoder, text=text, depth=depth, image=image)


def randomise(module, seed):
    """Every tensor random, norms included, at scales that keep activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            value = noise * parameter[0].numel() ** -0.5
        else:
            value = 0.1 * noise + float(name.endswith("weight"))
        parameter.data = value
    return module.eval().requires_grad_(False)


def tiny_depth(seed=0):
    """A depth estimator with random weights whose depths are all above 0."""
    network = randomise(DPTHybrid(DEPTH), seed)
    network.scratch.output_conv[4].bias.data[:] = 3.0
    return network


def hugging_face_text(state):
    """`CLIPText` weights under the names of transformers' CLIPTextModel, q, k and v apart."""
    renamed = {}
    for key, tensor in state.items():
        layer, _, rest = key.removeprefix("model.transformer.resblocks.").partition(".")
        stem = f"text_model.encoder.layers.{layer}."
        match rest.split(".") if "resblocks" in key else []:
            case ["attn", ("in_proj_weight" | "in_proj_bias") as joined]:
                for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                    renamed[f"{stem}self_attn.{letter}_proj.{joined.removeprefix('in_proj_')}"] = part.clone()
            case ["attn", *rest]:
                renamed[f"{stem}self_attn.{'.'.join(rest)}"] = tensor
            case ["mlp", linear, kind]:
                renamed[f"{stem}mlp.{ {'c_fc': 'fc1', 'c_proj': 'fc2'}[linear] }.{kind}"] = tensor
            case [norm, kind]:
                renamed[f"{stem}{norm.replace('ln_', 'layer_norm')}.{kind}"] = tensor
            case _:
                name = {
                    "model.token_embedding.weight": "embeddings.token_embedding.weight",
                    "model.positional_embedding": "embeddings.position_embedding.weight",
                    "model.ln_final.weight": "final_layer_norm.weight",
                    "model.ln_final.bias": "final_layer_norm.bias",
                }[key]
                renamed["text_model." + name] = tensor
    return renamed


def hugging_face_image(state):
    """`ImageTower` weights under the names of transformers' CLIPVisionModelWithProjection."""
    outside = {
        "visual.class_embedding": "embeddings.class_embedding",
        "visual.conv1.weight": "embeddings.patch_embedding.weight",
        "visual.positional_embedding": "embeddings.position_embedding.weight",
        "visual.ln_pre.weight": "pre_layrnorm.weight",
        "visual.ln_pre.bias": "pre_layrnorm.bias",
        "visual.ln_post.weight": "post_layernorm.weight",
        "visual.ln_post.bias": "post_layernorm.bias",
    }
    layers = {key.replace("visual.", "model."): tensor for key, tensor in state.items() if "resblocks" in key}
    renamed = {key.replace("text_model.", ""): tensor for key, tensor in hugging_face_text(layers).items()}
    renamed |= {new: state[old] for old, new in outside.items()}
    projection = {"visual_projection.weight": state["visual.proj"].T.contiguous()}
    return {f"vision_model.{key}": tensor for key, tensor in renamed.items()} | projection


def clip_text_half(spec):
    """What the official files hold of CLIP beside its image tower: for H all but the transformer."""
    text = OpenCLIPText(spec.text).state_dict()
    names = {key.removeprefix("model."): tensor for key, tensor in text.items()}
    return {key: tensor for key, tensor in names.items() if spec.kind == "unclip-l" or "transformer" not in key}


def tiny_state(kind, *, seed=0, spec=None):
    """The whole file's tensors by key, schedule buffers included. The tensors are shared: do not write to them."""
    return dict(_state(spec or tiny_spec(kind), seed))


@cache
def _state(spec, seed):
    openclip = spec.text.tower == "openclip-h"
    text = randomise((OpenCLIPText if openclip else CLIPText)(spec.text), seed + 2).state_dict()
    if not openclip:
        text = {"transformer." + key: tensor for key, tensor in hugging_face_text(text).items()}
        text["transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    parts = {
        "model.diffusion_model.": randomise(UNet(spec.unet), seed).state_dict(),
        "first_stage_model.": randomise(AutoencoderKL(spec.autoencoder), seed + 1).state_dict(),
        "cond_stage_model.": text,
    }
    if spec.depth is not None:
        parts["depth_model.model."] = tiny_depth(seed + 3).state_dict()
    if spec.image is not None:
        parts["embedder.model."] = randomise(ImageTower(spec.image), seed + 3).state_dict() | clip_text_half(spec)
        parts["noise_augmentor."] = NoiseAugmentation(spec.image.embed_dim).state_dict()
    state = {prefix + key: tensor for prefix, part in parts.items() for key, tensor in part.items()}
    return state | {name: torch.zeros(1000) for name in SCHEDULE_BUFFERS}


def write_checkpoint(path, kind, *, seed=0, spec=None, dtype=torch.float32, metadata=None, prediction=None):
    """Write a tiny checkpoint of the kind; a prediction goes into the metadata, and always does for v2-v.

    A .ckpt holds the tensors alone.
    """
    metadata = dict(metadata or {})
    prediction = prediction or ("v_prediction" if kind == "v2-v" else None)
    if prediction:
        metadata["modelspec.prediction_type"] = {"v_prediction": "v"}.get(prediction, prediction)
    if spec and spec.autoencoder.group_size:
        metadata["sd2_family.group_size"] = str(spec.autoencoder.group_size)
    state = tiny_state(kind, seed=seed, spec=spec)
    state = {key: t.to(dtype) if t.is_floating_point() else t for key, t in state.items()}
    if path.suffix == ".ckpt":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path, metadata=metadata)
    return path
