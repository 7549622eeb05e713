"""Draw the pack's icon: python -m sd2_family.training.world.icon"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .scenes import render

FILE = Path(__file__).parents[2] / "web" / "icon.png"
SIZE = 400  # the largest side that the registry shows
CELLS = 16  # cells of the mosaic on a side: the size of the latent of a 128 px image
SEED = 50_000_024


def main() -> None:
    scene = Image.fromarray(render(SEED, size=SIZE, items=[("red", "balloon")], background="on a beach").image)
    icon = Image.composite(noise(), scene, fade()).convert("RGBA")
    icon.putalpha(rounded_corners())
    icon.save(FILE, optimize=True)


def noise() -> Image.Image:
    """Draw the mosaic of random colors that sampling starts from."""
    rng = np.random.default_rng(SEED)
    cells = np.clip(rng.normal(128, 56, (CELLS, CELLS, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(cells).resize((SIZE, SIZE), Image.Resampling.NEAREST)


def fade() -> Image.Image:
    """Draw how much of the mosaic shows in each cell: all of it in one corner, less and less toward the other."""
    rng = np.random.default_rng(SEED + 1)
    across, down = np.meshgrid(np.linspace(0, 1, CELLS), np.linspace(0, 1, CELLS))
    amount = 3.2 * ((1 - across + down) / 2 - 0.55) + rng.normal(0, 0.22, (CELLS, CELLS))
    cells = (np.clip(amount, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(cells).resize((SIZE, SIZE), Image.Resampling.NEAREST)


def rounded_corners() -> Image.Image:
    """Draw the alpha channel: opaque except at the corners."""
    alpha = Image.new("L", (SIZE * 4, SIZE * 4))
    ImageDraw.Draw(alpha).rounded_rectangle((0, 0, SIZE * 4 - 1, SIZE * 4 - 1), SIZE * 4 // 6, fill=255)
    return alpha.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
