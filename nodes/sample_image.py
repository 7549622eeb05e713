"""Nodes with bundled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..backends.folders import inside

SAMPLES = Path(__file__).parent / "samples"
MASK_SUFFIX = "_mask"


class SD2SampleImage:
    """Load a bundled image and its mask, so that templates run without input files."""

    CATEGORY = "SD2/image"
    DESCRIPTION = (
        "Load an image and a mask that come with this pack, to try a workflow. Use Load Image for your own images."
    )
    SEARCH_ALIASES = ("example image", "demo image", "test image")
    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("image", "mask")
    OUTPUT_TOOLTIPS = ("The image.", "The area to repaint.")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = sorted(path.name for path in SAMPLES.glob("*.png") if not path.stem.endswith(MASK_SUFFIX))
        return {"required": {"name": (names, {"tooltip": "The bundled image to load."})}}

    def load(self, name: str) -> tuple[Tensor, Tensor]:
        path = inside(SAMPLES, name)
        image = _read(path, "RGB")[None]
        mask_path = path.with_stem(path.stem + MASK_SUFFIX)
        mask = _read(mask_path, "L")[None] if mask_path.is_file() else torch.zeros(image.shape[:3])
        return image, mask


def _read(path: Path, mode: str) -> Tensor:
    """Read an image as [H, W, 3] for RGB or [H, W] for L, in 0..1."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert(mode), np.float32) / 255)
