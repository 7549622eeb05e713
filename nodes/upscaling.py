"""Nodes around the x4 upscaler."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..pipeline import blend, upscale
from ..pipeline.types import Conditioning, Latent, with_options


class SD2UpscaleConditioning:
    """A picture as what the x4 upscaler enlarges."""

    CATEGORY = "SD2/upscale"
    DESCRIPTION = (
        "Prepare a picture for the x4 upscaler: it goes into the conditioning with a little noise, and the latent "
        "gets its size. Any size; large pictures are sampled in overlapping tiles."
    )
    SEARCH_ALIASES = ("upscale", "x4 upscaler", "super resolution", "enlarge", "4x upscale conditioning")
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    RETURN_NAMES = ("positive", "negative", "latent")
    OUTPUT_TOOLTIPS = (
        "The positive conditioning, with the picture.",
        "The negative conditioning, with the picture.",
        "An empty latent of the picture's size, which is decoded to 4 times that.",
    )
    FUNCTION = "condition"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "positive": ("CONDITIONING", {"tooltip": "The encoded prompt: what the picture shows."}),
                "negative": ("CONDITIONING", {"tooltip": "The encoded negative prompt."}),
                "image": ("IMAGE", {"tooltip": "The picture to enlarge 4 times, of any size."}),
                "noise_level": (
                    "INT",
                    {
                        "default": 20,
                        "min": 0,
                        "max": upscale.MAX_LEVEL,
                        "tooltip": "Noise on the picture, which the model is told of. More lets it invent more "
                        "detail, and hides what compression has left.",
                    },
                ),
                "seed": (
                    "INT",
                    {
                        "default": 1,
                        "min": 0,
                        "max": 0xFFFFFFFFFFFFFFFF,
                        "control_after_generate": True,
                        "tooltip": "Which random numbers that noise is made of. Choose another than the sampler's, "
                        "which would draw the same ones.",
                    },
                ),
            }
        }

    def condition(
        self, positive: Conditioning, negative: Conditioning, image: Tensor, noise_level: int = 20, seed: int = 1
    ) -> tuple[Conditioning, Conditioning, Latent]:
        options, latent = upscale.encode(image, noise_level, seed)
        return with_options(positive, options), with_options(negative, options), latent


class SD2ColorMatch:
    """A picture with the mean colour of another."""

    CATEGORY = "SD2/image"
    DESCRIPTION = (
        "Give a picture the mean colour of a reference, channel by channel: an upscaled picture keeps the colours of "
        "the one that it was made from."
    )
    SEARCH_ALIASES = ("color match", "colour match", "color fix", "color correction", "color transfer")
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The picture in the reference's mean colour.",)
    FUNCTION = "match"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The picture to correct."}),
                "reference": ("IMAGE", {"tooltip": "The picture whose mean colour to take; of any size."}),
                "enabled": ("BOOLEAN", {"default": True, "tooltip": "Off: the picture passes unchanged."}),
            }
        }

    def match(self, image: Tensor, reference: Tensor, enabled: bool = True) -> tuple[Tensor]:
        if not enabled:
            return (image,)
        return (blend.match_mean(image, reference),)
