"""Nodes with bundled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..backends import backend
from ..backends.folders import inside

SAMPLES = Path(__file__).parent / "samples"
MASK_SUFFIX = "_mask"


class SD2SampleImage:
    """Load a bundled image and its mask, so that templates run without input files."""

    CATEGORY = "SD2/image"
    DESCRIPTION = (
        "Load an image and a mask that come with this pack, to try a workflow. A connected image, such as that of "
        "Load Image, takes their place."
    )
    SEARCH_ALIASES = ("example image", "demo image", "test image", "stable diffusion 2")
    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("image", "mask")
    OUTPUT_TOOLTIPS = ("The image.", "The area to repaint.")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = sorted(path.name for path in SAMPLES.glob("*.png") if not path.stem.endswith(MASK_SUFFIX))
        return {
            "required": {"name": (names, {"tooltip": "The bundled image to load."})},
            "optional": {
                "image": (
                    "IMAGE",
                    {"tooltip": "An image of your own to use instead. Bypass its node to use the bundled one again."},
                ),
                "mask": ("MASK", {"tooltip": "The area to repaint in your own image."}),
            },
        }

    def load(self, name: str, image: Tensor | None = None, mask: Tensor | None = None) -> dict[str, Any]:
        if image is None:
            image, bundled = _sample(name)
            mask = bundled if mask is None else mask
        if mask is None:
            mask = torch.zeros(image.shape[:3])
        shown = backend.show(image[:1]) + backend.show(mask[:1, ..., None].expand(-1, -1, -1, 3))
        return {"ui": {"images": shown}, "result": (image, mask)}


def _sample(name: str) -> tuple[Tensor, Tensor]:
    """Read a bundled image [1, H, W, 3] and its mask [1, H, W]."""
    path = inside(SAMPLES, name)
    image = _read(path, "RGB")[None]
    mask_path = path.with_stem(path.stem + MASK_SUFFIX)
    return image, _read(mask_path, "L")[None] if mask_path.is_file() else torch.zeros(image.shape[:3])


def _read(path: Path, mode: str) -> Tensor:
    """Read an image as [H, W, 3] for RGB or [H, W] for L, in 0..1."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert(mode), np.float32) / 255)
