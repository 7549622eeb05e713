"""Convert CLIP weights from Hugging Face transformers' names to open_clip's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

_TEXT = (
    ("transformer.", ""),
    ("text_model.", ""),
    ("embeddings.token_embedding.", "token_embedding."),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm.", "ln_final."),
)
_LAYERS = (
    ("encoder.layers.", "transformer.resblocks."),
    ("self_attn.out_proj.", "attn.out_proj."),
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
)
_IMAGE = (
    ("vision_model.", ""),
    ("embeddings.class_embedding", "class_embedding"),
    ("embeddings.patch_embedding.", "conv1."),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("pre_layrnorm.", "ln_pre."),
    ("post_layernorm.", "ln_post."),
    ("visual_projection.weight", "proj"),
)


def text_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert `transformer.text_model.*` to a `TextTower`'s weights."""
    weights = {key: tensor for key, tensor in state.items() if "position_ids" not in key}  # 0..76, not a weight
    renamed = _renamed(weights, _TEXT)
    if "text_projection.weight" in renamed:
        renamed["text_projection"] = renamed.pop("text_projection.weight").T
    return {"model." + key: tensor for key, tensor in renamed.items()}


def image_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the weights of transformers' CLIPVisionModelWithProjection to `ImageTower` weights."""
    plain = {key.removeprefix("visual."): tensor for key, tensor in state.items() if "position_ids" not in key}
    renamed = _renamed(plain, _IMAGE)
    if "proj" in renamed:
        renamed["proj"] = renamed["proj"].T.contiguous()  # same memory layout as in a file, for identical rounding
    return {"visual." + key: tensor for key, tensor in renamed.items()}


def _renamed(state: Mapping[str, Tensor], around: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """Rename a tower's weights to open_clip's, joining q, k and v of each layer into one matrix.

    around: (old, new) parts of the names outside the layers.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key
        for old, new in (*around, *_LAYERS):
            name = name.replace(old, new)
        renamed[name] = tensor
    for query in [name for name in renamed if ".self_attn.q_proj." in name]:
        parts = [query.replace("q_proj", f"{letter}_proj") for letter in "qkv"]
        if all(part in renamed for part in parts):
            joined = query.replace("self_attn.q_proj.", "attn.in_proj_")
            renamed[joined] = torch.cat([renamed.pop(part) for part in parts])
    return renamed
