"""Remake README's picture and the template's thumbnail: python -m sd2_family.training.pictures RESULT.png

RESULT is what `sd2 run workflows/inpaint.json` wrote.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from .samples import FOLDER

ROOT = Path(__file__).parent.parent
SAMPLE = "forest"  # the workflow's picture
SIDE, GAP = 256, 12  # pixels in README


def triptych(panels: list[Image.Image]) -> Image.Image:
    """Pictures side by side, twice as large, on nothing."""
    row = Image.new("RGBA", (len(panels) * (SIDE + GAP) - GAP, SIDE))
    for i, panel in enumerate(panels):
        row.paste(panel.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (i * (SIDE + GAP), 0))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    result = Image.open(parser.parse_args().result)
    panels = [Image.open(FOLDER / f"{SAMPLE}.png"), Image.open(FOLDER / f"{SAMPLE}_mask.png"), result]
    triptych(panels).save(ROOT / "web" / "docs" / "inpaint.png", optimize=True)
    thumbnail = result.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    thumbnail.save(ROOT / "workflows" / "inpaint.jpg", quality=88)


if __name__ == "__main__":
    main()
