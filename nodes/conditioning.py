"""Nodes that turn prompts into conditioning."""

from __future__ import annotations

from typing import Any

from ..pipeline.types import Conditioning, TextEncoder


class SD2CLIPTextEncode:
    """Encode a prompt as conditioning."""

    CATEGORY = "SD2/conditioning"
    DESCRIPTION = (
        "Encode a prompt with the checkpoint's text encoder. (word:1.3) strengthens a word, (word:0.7) weakens it."
    )
    SEARCH_ALIASES = ("prompt", "text", "positive prompt", "negative prompt")
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("conditioning",)
    OUTPUT_TOOLTIPS = ("The encoded prompt, for a positive or negative input.",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "The text encoder, from the same checkpoint as the model."}),
                "text": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "dynamicPrompts": True,
                        "tooltip": "The prompt, of any length. For inpainting, describe the whole image.",
                    },
                ),
            }
        }

    def encode(self, clip: TextEncoder, text: str) -> tuple[Conditioning]:
        if clip is None:
            raise ValueError("clip is empty; connect the clip output of SD2 Load Checkpoint")
        return (clip.encode_from_tokens_scheduled(clip.tokenize(text)),)
