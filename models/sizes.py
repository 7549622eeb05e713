"""Read the sizes of each part of a checkpoint from the shapes of its tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from .specs import AutoencoderSpec, DepthSpec, ImageSpec, TextSpec, UNetSpec

State = dict[str, Tensor]


class UnknownKindError(Exception):
    """The tensors match no model of the family; the message is the end of a sentence about the file."""


def width_of_context(unet: State) -> int:
    """Return the width of the text embeddings that the UNet takes."""
    return unet["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]


def unet_spec(unet: State, base: UNetSpec) -> UNetSpec:
    """Read the sizes from the weights; the heads and the levels of self-attention are the kind's."""
    return replace(encoder_spec(unet, base), out_channels=unet["out.2.weight"].shape[0])


def encoder_spec(unet: State, base: UNetSpec) -> UNetSpec:
    """Read the sizes of a UNet's first half, all but the output's channels, from its weights or a ControlNet's."""
    stem = unet["input_blocks.0.0.weight"]
    levels: list[list[tuple[int, bool]]] = [[]]  # (channels, attention) of each residual block, level by level
    for number in range(1, _count(unet, r"input_blocks\.(\d+)\.")):
        block = f"input_blocks.{number}"
        if f"{block}.0.op.weight" in unet:
            levels.append([])
        else:
            levels[-1].append((unet[f"{block}.0.in_layers.2.weight"].shape[0], f"{block}.1.norm.weight" in unet))
    if not all(levels):
        raise KeyError("residual block in one level of its UNet")
    labels, vectors = unet.get("label_emb.weight"), unet.get("label_emb.0.0.weight")
    return replace(
        base,
        in_channels=stem.shape[1],
        model_channels=stem.shape[0],
        channel_mult=tuple(level[0][0] // stem.shape[0] for level in levels),
        num_res_blocks=len(levels[0]),
        attention=tuple(level[0][1] for level in levels),
        self_attention=(base.self_attention[0],) * (len(levels) - 1) + (base.self_attention[-1],),
        context_dim=width_of_context(unet),
        linear_projection=unet["middle_block.1.proj_in.weight"].ndim == 2,
        num_classes=None if labels is None else labels.shape[0],
        vector_dim=None if vectors is None else vectors.shape[1],
    )


def autoencoder_spec(autoencoder: State, base: AutoencoderSpec) -> AutoencoderSpec:
    """Read the sizes from the weights; the latent scale is the kind's."""
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


def text_spec(text: State, base: TextSpec, *, cut: bool) -> TextSpec:
    """Read the sizes from the weights; heads are 64 wide in every tower.

    cut: the layer that a 2.x tower skips is not there, so that its last layer is the one that is read.
    """
    width = text["model.positional_embedding"].shape[1]
    layers = _count(text, r"model\.transformer\.resblocks\.(\d+)\.")
    return replace(
        base,
        width=width,
        layers=layers,
        heads=_heads("text encoder", width, 64),
        penultimate=base.penultimate and not cut,
    )


def depth_spec(state: State) -> DepthSpec:
    """Read the sizes from the weights."""
    vit = "pretrained.model."
    backbone = vit + "patch_embed.backbone."
    stages = [f"{backbone}stages.{index}." for index in range(_count(state, rf"{backbone}stages\.(\d+)\."))]
    width = state[vit + "cls_token"].shape[2]
    return DepthSpec(
        stem=state[backbone + "stem.conv.weight"].shape[0],
        channels=tuple(state[stage + "blocks.0.conv3.weight"].shape[0] for stage in stages),
        depths=tuple(_count(state, rf"{stage}blocks\.(\d+)\.") for stage in stages),
        width=width,
        layers=_count(state, rf"{vit}blocks\.(\d+)\."),
        heads=_heads("depth estimator", width, 64),
        grid=math.isqrt(state[vit + "pos_embed"].shape[1] - 1),
        features=state["scratch.layer1_rn.weight"].shape[0],
    )


def image_spec(state: State, base: ImageSpec, embed_dim: int) -> ImageSpec:
    """Read the sizes from an `ImageTower`'s weights; embed_dim is the UNet's.

    Heads are as wide as the kind's (80 in ViT-H), or 64 where that does not divide the width, as in smaller CLIPs.
    """
    conv, positions = state["visual.conv1.weight"], state["visual.positional_embedding"]
    width, grid = conv.shape[0], math.isqrt(positions.shape[0] - 1)
    head_width = 64 if width % base.head_width else base.head_width
    _heads("image encoder", width, head_width)
    return replace(
        base,
        width=width,
        head_width=head_width,
        layers=_count(state, r"visual\.transformer\.resblocks\.(\d+)\."),
        patch_size=conv.shape[-1],
        image_size=grid * conv.shape[-1],
        embed_dim=embed_dim,
    )


def _heads(tower: str, width: int, head_width: int) -> int:
    heads, rest = divmod(width, head_width)
    if rest:
        raise UnknownKindError(f"has a {tower} {width} wide, which heads of {head_width} do not divide")
    return heads


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count the distinct numbers that the pattern's group matches in the keys."""
    return len({match[1] for match in (re.match(pattern, key) for key in state) if match})
