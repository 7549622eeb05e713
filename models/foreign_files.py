"""Recognize files that are not checkpoints of the family, and suggest what to load instead."""

from __future__ import annotations

import re
from collections.abc import Iterable

# patterns of keys and the end of the sentence "<file> is ..."; the first match decides
FOREIGN_FILES = (
    (
        r"^lora_(unet|te\d?)_|\.lora_(down|up|A|B)\b|\.hada_w1|\.lokr_w1",
        "a LoRA; load it with a LoRA loader after a checkpoint",
    ),
    (
        r"^control_model\.|zero_convs\.|controlnet_cond_embedding\.",
        "a ControlNet; load it with a ControlNet loader after a checkpoint",
    ),
    (r"^conditioner\.embedders\.", "an SDXL checkpoint; choose a Stable Diffusion 1.x or 2.x checkpoint"),
    (r"(^|\.)joint_blocks\.", "a Stable Diffusion 3 model; choose a Stable Diffusion 1.x or 2.x checkpoint"),
    (r"(^|\.)double_blocks\.", "a Flux model; choose a Stable Diffusion 1.x or 2.x checkpoint"),
    (
        r"^(down|up)_blocks\.\d",
        "a UNet in diffusers format; choose the whole folder, or the single-file checkpoint of the same model",
    ),
    (r"^(model\.diffusion_model\.)?input_blocks\.\d", "only a UNet; use the full checkpoint of the same model"),
    (r"^(first_stage_model\.)?(en|de)coder\.(up|down|mid)", "only an autoencoder (VAE); load it with a VAE loader"),
    (
        r"(^|\.)text_model\.|^(cond_stage_model\.)?(model\.)?transformer\.resblocks\.",
        "only a text encoder; use the full checkpoint of the same model",
    ),
    (r"^(string_to_param|emb_params|clip_[lg])$", "a textual-inversion embedding; choose a checkpoint"),
)


def what_it_is(keys: Iterable[str]) -> str:
    """Return the end of a sentence: what a file with these keys is, and what to load instead."""
    keys = list(keys)
    for pattern, sentence in FOREIGN_FILES:
        if any(re.search(pattern, key) for key in keys):
            return "is " + sentence
    return f"is not a Stable Diffusion checkpoint (its first key is {keys[0]}); choose a 1.x or 2.x checkpoint"
