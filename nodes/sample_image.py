"""Nodes that bring pictures of their own."""

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
    """A bundled picture with its mask, so that a template runs before anything is in the input folder."""

    CATEGORY = "SD2/image"
    DESCRIPTION = "A picture and a mask that come with this pack, to try a workflow with. Load Image takes its place."
    SEARCH_ALIASES = ("example image", "demo image", "test image")
    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("image", "mask")
    OUTPUT_TOOLTIPS = ("The picture.", "The part of it to repaint.")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        pictures = [path for path in SAMPLES.glob("*.png") if not path.stem.endswith(MASK_SUFFIX)]
        names = sorted(path.name for path in pictures)
        return {"required": {"name": (names, {"tooltip": "Which of the bundled pictures."})}}

    def load(self, name: str) -> tuple[Tensor, Tensor]:
        path = inside(SAMPLES, name)
        image = _read(path, "RGB")[None]
        mask_path = path.with_stem(path.stem + MASK_SUFFIX)
        mask = _read(mask_path, "L")[None] if mask_path.is_file() else torch.zeros(image.shape[:3])
        return image, mask


def _read(path: Path, mode: str) -> Tensor:
    """[H, W, 3] for RGB, [H, W] for L; 0..1."""
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert(mode), np.float32) / 255)
