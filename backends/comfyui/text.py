"""The CLIP of a checkpoint: ComfyUI's text encoder with our weights.

Using ComfyUI's encoder gives textual inversion, prompt weights, hooks and LoRAs their usual behavior.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.sd2_clip
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ...models.clip_text import TextTower
from ...models.specs import TextSpec
from .model import Comfy


def build_clip(tower: TextTower, dtype: torch.dtype | None, disable_dynamic: bool) -> Comfy:
    """Build ComfyUI's text encoder with our weights, at any width."""
    openclip = tower.spec.tower == "openclip-h"
    name = "clip_h" if openclip else "clip_l"
    sd2 = comfy.text_encoders.sd2_clip
    state = dict(tower.state_dict())
    spec = tower.spec
    if openclip and not spec.penultimate:  # ComfyUI skips the last layer of 2.x: give it one to skip
        state |= _one_more_layer(state, spec.layers)
        spec = replace(spec, layers=spec.layers + 1)
    state = comfy.utils.clip_text_transformers_convert(state, "model.", f"{name}.transformer.")
    if openclip:
        target = SimpleNamespace(params={}, clip=sd2.SD2ClipModel, tokenizer=sd2.SD2Tokenizer)
        state[f"{name}.logit_scale"] = state.pop("model.logit_scale")
    else:
        target = SimpleNamespace(params={}, clip=comfy.sd1_clip.SD1ClipModel, tokenizer=comfy.sd1_clip.SD1Tokenizer)
        state[f"{name}.transformer.text_projection.weight"] = torch.eye(tower.spec.width)  # 1.x has none
    on_cpu = comfy.model_management.text_encoder_device().type == "cpu"
    options = {
        f"{name}_model_config": _text_config(spec),
        "dtype": dtype or (tower.dtype if on_cpu else None),  # ComfyUI would round to float16 even there
    }
    return _filled_clip(target, state, options, disable_dynamic)


def _one_more_layer(state: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Return a layer of zeros, which changes nothing, to follow the last one."""
    last = f"model.transformer.resblocks.{layers - 1}."
    return {
        key.replace(last, f"model.transformer.resblocks.{layers}."): torch.zeros_like(tensor)
        for key, tensor in state.items()
        if key.startswith(last)
    }


def _text_config(spec: TextSpec) -> dict[str, int]:
    return {
        "hidden_size": spec.width,
        "intermediate_size": 4 * spec.width,
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
    }


def _filled_clip(
    target: SimpleNamespace, state: dict[str, Tensor], options: dict[str, Any], disable_dynamic: bool
) -> Comfy:
    arguments: dict[str, Any] = {
        "embedding_directory": folder_paths.get_folder_paths("embeddings"),
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "model_options": options,
    }
    if not hasattr(comfy.model_patcher, "CoreModelPatcher"):  # ComfyUI before weight streaming
        clip = comfy.sd.CLIP(target, **arguments)
        clip.load_sd(state, full_model=True)
        return clip
    return comfy.sd.CLIP(target, **arguments, state_dict=state, disable_dynamic=disable_dynamic)
