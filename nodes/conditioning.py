"""Nodes that turn prompts into conditioning."""

from __future__ import annotations

from typing import Any

from ..pipeline.types import Conditioning, TextEncoder


class SD2CLIPTextEncode:
    """A prompt as conditioning."""

    CATEGORY = "SD2/conditioning"
    DESCRIPTION = (
        "Encode a prompt with the text encoder of a checkpoint. (word:1.3) stresses a word, (word:0.7) mutes it."
    )
    SEARCH_ALIASES = ("prompt", "text", "positive prompt", "negative prompt")
    RETURN_TYPES = ("CONDITIONING",)
    RETURN_NAMES = ("conditioning",)
    OUTPUT_TOOLTIPS = ("What the picture should show, or, as the negative, should not.",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "The text encoder, of the same checkpoint as the model."}),
                "text": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "dynamicPrompts": True,
                        "tooltip": "The prompt, of any length. For inpainting, describe the whole picture.",
                    },
                ),
            }
        }

    def encode(self, clip: TextEncoder, text: str) -> tuple[Conditioning]:
        if clip is None:
            raise ValueError("clip is empty; connect the clip output of SD2CheckpointLoader")
        return (clip.encode_from_tokens_scheduled(clip.tokenize(text)),)
