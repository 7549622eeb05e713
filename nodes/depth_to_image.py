"""Nodes that estimate a depth map and condition on one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..pipeline import depth as depth_map
from ..pipeline.types import Conditioning, DepthEstimator, with_options

FACTOR = 8  # image pixels per latent pixel of the depth model's autoencoder


class SD2DepthEstimate:
    """Estimate the depth of an image."""

    CATEGORY = "SD2/depth"
    DESCRIPTION = (
        "Estimate a depth map with the MiDaS model in the depth checkpoint. The map has the resolution at which MiDaS "
        "runs, not the size of the image."
    )
    SEARCH_ALIASES = ("midas", "dpt", "depth map", "depth preprocessor")
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("depth",)
    OUTPUT_TOOLTIPS = ("The depth map for SD2 Depth Conditioning; white is nearest, black is farthest.",)
    FUNCTION = "estimate"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "depth_model": ("SD2_DEPTH_MODEL", {"tooltip": "The depth_model output of SD2 Load Checkpoint."}),
                "image": ("IMAGE", {"tooltip": "The image, of any size."}),
            }
        }

    def estimate(self, depth_model: DepthEstimator, image: Tensor) -> tuple[Tensor]:
        return (depth_map.estimate(depth_model, image),)


class SD2DepthConditioning:
    """Add a depth map to the conditioning."""

    CATEGORY = "SD2/depth"
    DESCRIPTION = (
        "Guide the depth checkpoint with a depth map. The map can come from SD2 Depth Estimate, another estimator or "
        "a 3D program, as long as near is bright."
    )
    SEARCH_ALIASES = ("depth2img", "depth to image", "depth guided", "depth map")
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    OUTPUT_TOOLTIPS = (
        "The positive conditioning with the depth map.",
        "The negative conditioning with the depth map.",
    )
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        side = {"default": 512, "min": 16, "max": 16384, "step": 8}
        return {
            "required": {
                "positive": ("CONDITIONING", {"tooltip": "The encoded prompt."}),
                "negative": ("CONDITIONING", {"tooltip": "The encoded negative prompt."}),
                "depth": ("IMAGE", {"tooltip": "The depth map, near bright and far dark, of any size and contrast."}),
                "width": ("INT", {**side, "tooltip": "Width of the image to generate; the map is resized to it."}),
                "height": ("INT", {**side, "tooltip": "Height of the image to generate."}),
            }
        }

    def encode(
        self, positive: Conditioning, negative: Conditioning, depth: Tensor, width: int = 512, height: int = 512
    ) -> tuple[Conditioning, Conditioning]:
        options = depth_map.options(depth, height // FACTOR, width // FACTOR)
        return with_options(positive, options), with_options(negative, options)
