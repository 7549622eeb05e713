"""Types and entries that the stand-ins' INPUT_TYPES share."""

from __future__ import annotations

from typing import Any

MAX_RESOLUTION = 16384
CHANNELS = ["red", "green", "blue", "alpha"]
IMAGE_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
CROPS = ["disabled", "center"]
Inputs = dict[str, Any]
Latent = dict[str, Any]
Wire = Any  # CLIP, VAE, CLIP_VISION: objects with the methods of ComfyUI's


def pixels(default: int, *, low: int = 0, step: int = 1) -> tuple[str, dict[str, int]]:
    return "INT", {"default": default, "min": low, "max": MAX_RESOLUTION, "step": step}


def number(default: float, *, low: float = 0.0, high: float = 1.0, step: float = 0.01) -> tuple[str, dict[str, float]]:
    return "FLOAT", {"default": default, "min": low, "max": high, "step": step}
