"""Nodes around a depth map: make one from a picture, and condition on one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..pipeline import depth as depth_map
from ..pipeline.types import Conditioning, DepthEstimator, with_options

FACTOR = 8  # picture pixels per latent pixel of the depth model's autoencoder


class SD2DepthEstimate:
    """A picture's depth."""

    CATEGORY = "SD2/depth"
    DESCRIPTION = (
        "Estimate how near each part of a picture is, with the MiDaS model inside the depth checkpoint. The map has "
        "the size at which that model looks at the picture."
    )
    SEARCH_ALIASES = ("midas", "dpt", "depth map", "depth preprocessor")
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("depth",)
    OUTPUT_TOOLTIPS = ("The depth map: white is nearest, black farthest. For SD2 Depth Conditioning, or to look at.",)
    FUNCTION = "estimate"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "depth_model": ("SD2_DEPTH_MODEL", {"tooltip": "The depth_model of the depth checkpoint."}),
                "image": ("IMAGE", {"tooltip": "The picture, of any size."}),
            }
        }

    def estimate(self, depth_model: DepthEstimator, image: Tensor) -> tuple[Tensor]:
        return (depth_map.estimate(depth_model, image),)


class SD2DepthConditioning:
    """A depth map in the conditioning."""

    CATEGORY = "SD2/depth"
    DESCRIPTION = (
        "Let a depth map guide the depth checkpoint. The map may come from SD2 Depth Estimate, from another estimator "
        "or from a 3D program, as long as near is bright."
    )
    SEARCH_ALIASES = ("depth2img", "depth to image", "depth guided", "depth map")
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    OUTPUT_TOOLTIPS = (
        "The positive conditioning, with the depth map.",
        "The negative conditioning, with the depth map.",
    )
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        side = {"default": 512, "min": 16, "max": 16384, "step": 8}
        return {
            "required": {
                "positive": ("CONDITIONING", {"tooltip": "The encoded prompt."}),
                "negative": ("CONDITIONING", {"tooltip": "The encoded negative prompt."}),
                "depth": ("IMAGE", {"tooltip": "The depth map, near bright and far dark; any size, any contrast."}),
                "width": ("INT", {**side, "tooltip": "Width of the picture to be made; the map is stretched to it."}),
                "height": ("INT", {**side, "tooltip": "Height of the picture to be made."}),
            }
        }

    def encode(
        self, positive: Conditioning, negative: Conditioning, depth: Tensor, width: int = 512, height: int = 512
    ) -> tuple[Conditioning, Conditioning]:
        options = depth_map.options(depth, height // FACTOR, width // FACTOR)
        return with_options(positive, options), with_options(negative, options)
