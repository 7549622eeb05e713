"""The moving average (EMA) of a UNet's weights: Lightning stores it under the weights' keys without their dots."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

EMA = "model_ema.diffusion_model"

_NAMES = (
    *(rf"(in_layers)({n})" for n in "02"),
    r"(emb_layers)(1)",
    *(rf"(out_layers)({n})" for n in "03"),
    r"(transformer_blocks)(\d+)(norm[123])",
    r"(transformer_blocks)(\d+)(attn[12])(to_[qkv])",
    r"(transformer_blocks)(\d+)(attn[12])(to_out)(0)",
    r"(transformer_blocks)(\d+)(ff)(net)(0)(proj)",
    r"(transformer_blocks)(\d+)(ff)(net)(2)",
    r"(skip_connection|op|conv|norm|proj_in|proj_out)",
)
_LEAVES = "|".join(re.sub(r"\((?!\?)", "(?:", name) for name in _NAMES)
# the index inside a block is one digit, so that the digits before it number the block
_BLOCK = re.compile(rf"(input_blocks|output_blocks)(\d+)(\d)({_LEAVES}|)(weight|bias)")
_MIDDLE = re.compile(rf"(middle_block)(\d)({_LEAVES})(weight|bias)")
_OTHER = re.compile(r"(time_embed|out)([02])(weight|bias)|(label_emb)(0)([02])(weight|bias)|(label_emb)(weight)")


def restored_key(dotless: str) -> str | None:
    """Put the dots back into a UNet key: input_blocks10in_layers0weight -> input_blocks.1.0.in_layers.0.weight."""
    if match := _BLOCK.fullmatch(dotless) or _MIDDLE.fullmatch(dotless):
        *where, leaf, kind = match.groups()
        return ".".join([*where, *_dotted(leaf), kind])
    if match := _OTHER.fullmatch(dotless):
        return ".".join(filter(None, match.groups()))
    return None


def _dotted(leaf: str) -> list[str]:
    for name in _NAMES:
        if match := re.fullmatch(name, leaf):
            return list(match.groups())
    return []


def restored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The moving average in a file under the keys of a UNet; keys of no UNet are left out."""
    found = {restored_key(key.removeprefix(EMA)): tensor for key, tensor in tensors.items() if key.startswith(EMA)}
    return {key: tensor for key, tensor in found.items() if key is not None}
