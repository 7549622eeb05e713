"""Read a model folder in diffusers format, with its keys converted to those of the single-file checkpoint.

Each part is a subfolder with a configuration and weights, which are one file or several files with an index.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .weights_file import INDEX, WeightsFile, read

State = dict[str, Tensor]


def read_folder(path: Path) -> WeightsFile:
    """Read the tensors of every part under the keys of the single file; they stay on disk until used."""
    if not (path / INDEX).is_file():
        raise ValueError(f"{path.name} has no {INDEX}; choose a folder in diffusers format or a checkpoint file")
    pipeline = read_json(path / INDEX).get("_class_name", "pipeline of unknown kind")
    parts = {part: path / part for part in _PARTS if (path / part).is_dir()}
    if "unet" not in parts or (path / "text_encoder_2").is_dir():
        raise ValueError(f"{path.name} is a {pipeline}; choose a Stable Diffusion 1.x or 2.x model")
    tensors: State = {}
    notes: list[str] = []
    for part, folder in parts.items():
        weights = _weights(folder)
        if weights.variant:
            notes.append(f"{part} is read from its variant {weights.variant}")
        try:
            tensors |= original_keys(part, weights.read(), read_json(folder / "config.json"))
        except KeyError as error:
            raise ValueError(f"{path.name} has no {error.args[0]} in {part}; download it again") from error
    return WeightsFile(path.name, tensors, {}, tuple(notes))


def original_keys(part: str, state: State, config: dict[str, Any]) -> State:
    """Convert the tensors of a part to the single file's keys; part: its folder's name, config: its config.json."""
    prefix, convert = _PARTS[part]
    return {prefix + key: tensor for key, tensor in convert(state, config).items()}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; empty if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# a part's weights, or the index of weights in several files, before or after whose suffix the variant stands
_WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|model|pytorch_model)(\.(?P<variant>[\w.-]+?))?\.(?P<suffix>safetensors|bin)"
    r"(?P<index>\.index(\.(?P<of_index>[\w.-]+))?\.json)?"
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_VARIANTS = (
    "",
    "fp32",
    "fp16",
    "bf16",
)  # tried first, in this order; a non_ema variant, the weights while training, last


@dataclass(frozen=True)
class _Weights:
    """The weights of a part in one variant, "" for the plain one."""

    variant: str
    path: Path

    def read(self) -> State:
        if self.path.suffix != ".json":
            return read(self.path).tensors
        shards = sorted({Path(name).name for name in read_json(self.path).get("weight_map", {}).values()})
        return {key: tensor for name in shards for key, tensor in read(self.path.parent / name).tensors.items()}


def _weights(folder: Path) -> _Weights:
    """Choose one of the variants that a part has, preferring safetensors to pickles."""
    found = []
    for path in sorted(folder.iterdir()):
        match = _WEIGHTS.fullmatch(path.name)
        if match and not _SHARD.search(path.name):
            variant = match["variant"] or match["of_index"] or ""
            rank = _VARIANTS.index(variant) if variant in _VARIANTS else len(_VARIANTS) + ("non_ema" in variant)
            found.append(((match["suffix"] != "safetensors", rank, variant, bool(match["index"])), path))
    if not found:
        raise ValueError(f"{folder.parent.name} has no weights in {folder.name}; download the whole folder")
    (_, _, variant, _), path = min(found)
    return _Weights(variant, path)


def _unet(state: State, _: dict[str, Any]) -> State:
    """Number the blocks consecutively instead of by level; a level is its residual blocks and one more."""
    level = 1 + len({key.split(".")[3] for key in state if key.startswith("down_blocks.0.resnets.")})

    def rename(key: str) -> str:
        match key.split("."):
            case ["down_blocks", i, "resnets", j, *rest]:
                return f"input_blocks.{int(i) * level + int(j) + 1}.0.{_renamed('.'.join(rest), _RESIDUAL)}"
            case ["down_blocks", i, "attentions", j, *rest]:
                return f"input_blocks.{int(i) * level + int(j) + 1}.1.{'.'.join(rest)}"
            case ["down_blocks", i, "downsamplers", "0", "conv", name]:
                return f"input_blocks.{(int(i) + 1) * level}.0.op.{name}"
            case ["mid_block", "resnets", j, *rest]:
                return f"middle_block.{2 * int(j)}.{_renamed('.'.join(rest), _RESIDUAL)}"
            case ["mid_block", "attentions", "0", *rest]:
                return f"middle_block.1.{'.'.join(rest)}"
            case ["up_blocks", i, "resnets", j, *rest]:
                return f"output_blocks.{int(i) * level + int(j)}.0.{_renamed('.'.join(rest), _RESIDUAL)}"
            case ["up_blocks", i, "attentions", j, *rest]:
                return f"output_blocks.{int(i) * level + int(j)}.1.{'.'.join(rest)}"
            case ["up_blocks", i, "upsamplers", "0", *rest]:
                after = 1 + any(other.startswith(f"up_blocks.{i}.attentions.") for other in state)
                return f"output_blocks.{(int(i) + 1) * level - 1}.{after}.{'.'.join(rest)}"
        return _renamed(key, _UNET)

    return {rename(key): tensor for key, tensor in state.items()}


_RESIDUAL = (
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("time_emb_proj.", "emb_layers.1."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("conv_shortcut.", "skip_connection."),
)
_UNET = (
    ("conv_in.", "input_blocks.0.0."),
    ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."),
    ("class_embedding.linear_1.", "label_emb.0.0."),  # by a vector: unCLIP
    ("class_embedding.linear_2.", "label_emb.0.2."),
    ("class_embedding.", "label_emb."),  # by a label: x4
    ("conv_norm_out.", "out.0."),
    ("conv_out.", "out.2."),
)


def _autoencoder(state: State, _: dict[str, Any]) -> State:
    """Reverse the decoder levels, which diffusers numbers from the deepest, and make attention 1x1 convolutions."""
    deepest = len({key.split(".")[2] for key in state if key.startswith("decoder.up_blocks.")}) - 1

    def rename(key: str) -> str:
        match key.split("."):
            case [half, "down_blocks", i, *rest]:
                return f"{half}.down.{i}.{_renamed('.'.join(rest), _LEVEL)}"
            case [half, "up_blocks", i, *rest]:
                return f"{half}.up.{deepest - int(i)}.{_renamed('.'.join(rest), _LEVEL)}"
            case [half, "mid_block", "resnets", j, *rest]:
                return f"{half}.mid.block_{int(j) + 1}.{'.'.join(rest)}"
            case [half, "mid_block", "attentions", "0", *rest]:
                return f"{half}.mid.attn_1.{_renamed('.'.join(rest), _ATTENTION)}"
        return key.replace("conv_norm_out.", "norm_out.")

    renamed = {rename(key): tensor for key, tensor in state.items()}
    return {
        key: tensor[:, :, None, None] if ".attn_1." in key and tensor.ndim == 2 else tensor
        for key, tensor in renamed.items()
    }


_LEVEL = (
    ("resnets.", "block."),
    ("conv_shortcut.", "nin_shortcut."),
    ("downsamplers.0.", "downsample."),
    ("upsamplers.0.", "upsample."),
)
_ATTENTION = (  # the second name of each comes from files saved before diffusers 0.13
    ("group_norm.", "norm."),
    ("to_q.", "q."),
    ("query.", "q."),
    ("to_k.", "k."),
    ("key.", "k."),
    ("to_v.", "v."),
    ("value.", "v."),
    ("to_out.0.", "proj_out."),
    ("proj_attn.", "proj_out."),
)


def _text(state: State, _: dict[str, Any]) -> State:
    """Keep transformers' keys, as 1.x files do."""
    return {f"transformer.text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in state.items()}


def _depth_estimator(state: State, _: dict[str, Any]) -> State:
    """Rename to MiDaS's keys, where the four fused maps are layer1..layer4 and fusion starts at the last."""

    def rename(key: str) -> str:
        match key.split("."):
            case ["dpt", "embeddings", "backbone", "bit", *rest]:
                return f"pretrained.model.patch_embed.backbone.{_renamed('.'.join(rest), _RESNET)}"
            case ["dpt", *rest]:
                return f"pretrained.model.{_renamed('.'.join(rest), _TRANSFORMER)}"
            case ["neck", "reassemble_stage", "readout_projects", i, "0", name]:
                return f"pretrained.act_postprocess{int(i) + 1}.0.project.0.{name}"
            case ["neck", "reassemble_stage", "layers", i, layer, name]:
                return f"pretrained.act_postprocess{int(i) + 1}.{3 if layer == 'projection' else 4}.{name}"
            case ["neck", "convs", i, name]:
                return f"scratch.layer{int(i) + 1}_rn.{name}"
            case ["neck", "fusion_stage", "layers", i, *rest]:
                return f"scratch.refinenet{4 - int(i)}.{_renamed('.'.join(rest), _FUSION)}"
            case ["head", "head", *rest]:
                return f"scratch.output_conv.{'.'.join(rest)}"
        return key

    renamed = {rename(key): tensor for key, tensor in state.items()}
    for query in [key for key in renamed if ".attn.query." in key]:
        parts = [query.replace("query", name) for name in ("query", "key", "value")]
        if all(part in renamed for part in parts):
            renamed[query.replace("query", "qkv")] = torch.cat([renamed.pop(part) for part in parts])
    return renamed


_RESNET = (
    ("embedder.convolution.", "stem.conv."),
    ("embedder.norm.", "stem.norm."),
    ("encoder.stages.", "stages."),
    (".layers.", ".blocks."),
)
_TRANSFORMER = (
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.projection.", "patch_embed.proj."),
    ("encoder.layer.", "blocks."),
    ("attention.attention.", "attn."),
    ("attention.output.dense.", "attn.proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
    ("layernorm_before.", "norm1."),
    ("layernorm_after.", "norm2."),
    ("layernorm.", "norm."),
)
_FUSION = (
    ("projection.", "out_conv."),
    ("residual_layer", "resConfUnit"),
    ("convolution", "conv"),
)


def _unchanged(state: State, _: dict[str, Any]) -> State:
    return state


def _renamed(key: str, names: tuple[tuple[str, str], ...]) -> str:
    for theirs, ours in names:
        key = key.replace(theirs, ours)
    return key


# by subfolder: the prefix in the single file, and the conversion of the keys after it
_PARTS: dict[str, tuple[str, Callable[[State, dict[str, Any]], State]]] = {
    "unet": ("model.diffusion_model.", _unet),
    "vae": ("first_stage_model.", _autoencoder),
    "text_encoder": ("cond_stage_model.", _text),
    "image_encoder": ("embedder.model.", _unchanged),  # may keep transformers' keys, as 1.x text encoders do
    "image_normalizer": ("noise_augmentor.data_", _unchanged),  # mean and std
    "depth_estimator": ("depth_model.model.", _depth_estimator),
}
