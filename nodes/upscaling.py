"""Nodes for the x4 upscaler."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..pipeline import blend, upscale
from ..pipeline.types import Conditioning, Latent, with_options


class SD2UpscaleConditioning:
    """Condition the x4 upscaler on an image."""

    CATEGORY = "SD2/upscale"
    DESCRIPTION = (
        "Prepare an image of any size for the x4 upscaler: the noised image goes into the conditioning, the latent "
        "gets its size. Large images are sampled in overlapping tiles."
    )
    SEARCH_ALIASES = ("upscale", "x4 upscaler", "super resolution", "enlarge", "4x upscale conditioning")
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    RETURN_NAMES = ("positive", "negative", "latent")
    OUTPUT_TOOLTIPS = (
        "The positive conditioning with the image.",
        "The negative conditioning with the image.",
        "An empty latent of the image's size, which decodes to 4 times that.",
    )
    FUNCTION = "condition"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "positive": ("CONDITIONING", {"tooltip": "The encoded prompt, describing the image."}),
                "negative": ("CONDITIONING", {"tooltip": "The encoded negative prompt."}),
                "image": ("IMAGE", {"tooltip": "The image to upscale 4 times, of any size."}),
                "noise_level": (
                    "INT",
                    {
                        "default": 20,
                        "min": 0,
                        "max": upscale.MAX_LEVEL,
                        "tooltip": "Noise to add to the image. More noise hides compression artifacts and lets the "
                        "model invent more detail.",
                    },
                ),
                "seed": (
                    "INT",
                    {
                        "default": 1,
                        "min": 0,
                        "max": 0xFFFFFFFFFFFFFFFF,
                        "control_after_generate": True,
                        "tooltip": "Random seed of the noise. Use a different seed than the sampler's, or both draw "
                        "the same noise.",
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
    """Match the mean color of an image to a reference."""

    CATEGORY = "SD2/image"
    DESCRIPTION = (
        "Match the mean color of an image to a reference, channel by channel, so that an upscaled image keeps the "
        "colors of its source."
    )
    SEARCH_ALIASES = ("color match", "colour match", "color fix", "color correction", "color transfer")
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The image with the reference's mean color.",)
    FUNCTION = "match"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The image to correct."}),
                "reference": ("IMAGE", {"tooltip": "The image whose mean color to match, of any size."}),
                "enabled": ("BOOLEAN", {"default": True, "tooltip": "If off, the image passes through unchanged."}),
            }
        }

    def match(self, image: Tensor, reference: Tensor, enabled: bool = True) -> tuple[Tensor]:
        if not enabled:
            return (image,)
        return (blend.match_mean(image, reference),)
