"""Which of the nine kinds a checkpoint is, and how wide its parts are: from keys and shapes alone.

A key that is not there is a KeyError, a tensor of another rank an IndexError.
"""

from __future__ import annotations

import re
from dataclasses import replace

from torch import Tensor

from .specs import AutoencoderSpec, TextSpec, UNetSpec

State = dict[str, Tensor]


class UnknownKindError(Exception):
    """No model of the family is like that; the message says like what."""


def kind_of(unet: State, *, openclip: bool) -> str:
    """The kind by text encoder, input channels and class conditioning; v2-v shows in the prediction only."""
    channels = unet["input_blocks.0.0.weight"].shape[1]
    condition = "label" if "label_emb.weight" in unet else "vector" if "label_emb.0.0.weight" in unet else "none"
    found = {
        (False, 4, "none"): "v1",
        (False, 9, "none"): "v1-inpaint",
        (True, 4, "none"): "v2-base",
        (True, 9, "none"): "v2-inpaint",
        (True, 5, "none"): "v2-depth",
        (True, 4, "vector"): "unclip",
        (True, 7, "label"): "x4",
    }.get((openclip, channels, condition))
    if found is None:
        encoder = "OpenCLIP" if openclip else "CLIP-L"
        raise UnknownKindError(f"has {channels} input channels, class condition {condition} and a {encoder} encoder")
    if found != "unclip":
        return found
    # OpenCLIP-H's image embedding is as wide as its text context; CLIP-L's is not
    vector, context = unet["label_emb.0.0.weight"].shape[1], _context_dim(unet)
    return "unclip-h" if vector == 2 * context else "unclip-l"


def _context_dim(unet: State) -> int:
    return unet["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]


def unet_spec(unet: State, base: UNetSpec) -> UNetSpec:
    """The sizes in the weights; the heads and the levels of self-attention are the kind's."""
    stem = unet["input_blocks.0.0.weight"]
    levels: list[list[tuple[int, bool]]] = [[]]  # (channels, attention) of each residual block, level by level
    for number in range(1, _count(unet, r"input_blocks\.(\d+)\.")):
        block = f"input_blocks.{number}"
        if f"{block}.0.op.weight" in unet:
            levels.append([])
        else:
            levels[-1].append((unet[f"{block}.0.in_layers.2.weight"].shape[0], f"{block}.1.norm.weight" in unet))
    if not all(levels):
        raise KeyError("residual block in some level of its UNet")
    labels, vectors = unet.get("label_emb.weight"), unet.get("label_emb.0.0.weight")
    return replace(
        base,
        in_channels=stem.shape[1],
        out_channels=unet["out.2.weight"].shape[0],
        model_channels=stem.shape[0],
        channel_mult=tuple(level[0][0] // stem.shape[0] for level in levels),
        num_res_blocks=len(levels[0]),
        attention=tuple(level[0][1] for level in levels),
        self_attention=(base.self_attention[0],) * (len(levels) - 1) + (base.self_attention[-1],),
        context_dim=_context_dim(unet),
        linear_projection=unet["middle_block.1.proj_in.weight"].ndim == 2,
        num_classes=None if labels is None else labels.shape[0],
        vector_dim=None if vectors is None else vectors.shape[1],
    )


def autoencoder_spec(autoencoder: State, base: AutoencoderSpec) -> AutoencoderSpec:
    """The sizes in the weights; how latents are scaled is the kind's."""
    channels = autoencoder["encoder.conv_in.weight"].shape[0]
    levels = range(_count(autoencoder, r"encoder\.down\.(\d+)\."))
    widths = [autoencoder[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in levels]
    return replace(
        base,
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        num_res_blocks=_count(autoencoder, r"encoder\.down\.0\.block\.(\d+)\."),
        latent_channels=autoencoder["decoder.conv_in.weight"].shape[1],
    )


def text_spec(text: State, base: TextSpec) -> TextSpec:
    """The sizes in the weights; heads are 64 wide in every tower."""
    width = text["model.positional_embedding"].shape[1]
    layers = _count(text, r"model\.transformer\.resblocks\.(\d+)\.")
    return replace(base, width=width, layers=layers, heads=width // 64)


def _count(state: State, pattern: str) -> int:
    """How many numbers the pattern's group takes on in the keys."""
    return len({match[1] for match in (re.match(pattern, key) for key in state) if match})
