"""Recognize files that are not checkpoints of the family, and suggest what to load instead."""

from __future__ import annotations

import re
from collections.abc import Iterable

# patterns of keys and the end of the sentence "<file> is ..."; the first match decides
OTHER_MODELS = (
    (
        r"^conditioner\.embedders\.|input_blocks\.\d+\.1\.transformer_blocks\.1\.",
        "an SDXL checkpoint; choose a Stable Diffusion 1.x or 2.x checkpoint",
    ),
    (r"(^|\.)joint_blocks\.", "a Stable Diffusion 3 model; choose a Stable Diffusion 1.x or 2.x checkpoint"),
    (r"(^|\.)double_blocks\.", "a Flux model; choose a Stable Diffusion 1.x or 2.x checkpoint"),
)
WITHOUT_UNET = (
    (
        r"^lora_(unet|te\d?)_|\.lora_(down|up|A|B)\b|\.hada_w1|\.lokr_w1",
        "a LoRA; load it with a LoRA loader after a checkpoint",
    ),
    (
        r"^control_model\.|zero_convs\.|controlnet_cond_embedding\.",
        "a ControlNet; load it with a ControlNet loader after a checkpoint",
    ),
    (r"^(first_stage_model\.)?(en|de)coder\.(up|down|mid)", "only an autoencoder (VAE); load it with a VAE loader"),
    (
        r"(^|\.)text_model\.|^(cond_stage_model\.)?(model\.)?transformer\.resblocks\.",
        "only a text encoder; load it with a CLIP loader, and choose a checkpoint that has a UNet",
    ),
    (
        r"(^|\.)vision_model\.|(^|\.)visual\.",
        "only an image encoder; load it with a CLIP vision loader, and choose a checkpoint that has a UNet",
    ),
    (r"^(string_to_param|emb_params|clip_[lg])$", "a textual-inversion embedding; choose a checkpoint"),
)


def another_model(keys: Iterable[str]) -> str:
    """Return the end of a sentence where the keys are those of a model of another family, else an empty string."""
    return _matching(list(keys), OTHER_MODELS)


def what_it_is(keys: Iterable[str]) -> str:
    """Return the end of a sentence: what a file without a UNet is by its keys, and what to load instead."""
    keys = list(keys)
    found = _matching(keys, WITHOUT_UNET)
    if found:
        return f"is {found}"
    return f"is not a Stable Diffusion checkpoint (its first key is {keys[0]}); choose a 1.x or 2.x checkpoint"


def not_the_part(keys: Iterable[str], part: str) -> str:
    """Return the end of a sentence: what a file without a wanted part, such as "a text encoder", is instead."""
    keys = list(keys)
    found = _matching(keys, WITHOUT_UNET)
    what = f"is {found}" if found else f"is not {part} (its first key is {keys[0]})"
    return f"{what}; choose the file of {part}"


def _matching(keys: list[str], sentences: Iterable[tuple[str, str]]) -> str:
    return next((sentence for pattern, sentence in sentences if any(re.search(pattern, key) for key in keys)), "")
