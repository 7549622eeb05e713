"""Sheets of images, for a look at what a checkpoint generates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from .dataset import Images, to_bytes
from .trials import Trial

COLUMNS = 8


def image_sheet(rows: Sequence[Images]) -> Image.Image:
    """Put rows of images [N, H, W, 3] one above the other; images beyond COLUMNS are left out."""
    lines = [np.concatenate(list(row[:COLUMNS]), axis=1) for row in rows]
    return Image.fromarray(np.concatenate(lines))


def inpainting_sheet(painted: Tensor, trials: Sequence[Trial], rows: int = 4) -> Image.Image:
    """Put the images of trials, masks in gray, above the inpainted images [N, H, W, 3] in 0..1."""
    before = np.stack([np.where(t.mask[..., None] > 0.5, 128, t.image).astype(np.uint8) for t in trials])
    after = to_bytes(painted)
    full_rows = min(rows, max(1, len(trials) // COLUMNS))
    parts = [slice(start, start + COLUMNS) for start in range(0, COLUMNS * full_rows, COLUMNS)]
    return image_sheet([images[part] for part in parts for images in (before, after)])
