"""Remake the thumbnails of the workflows and the image in README.

    python -m sd2_family.training.world.thumbnails RESULT.png...

Each RESULT is an output of `sd2 run` for one of the workflows, such as inpaint_00001_.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from .sample_images import FOLDER

ROOT = Path(__file__).parents[2]
SAMPLE = "snowfield"  # the image of the inpainting workflow
SIDE, GAP = 256, 12  # pixels
BORDER = "#202020"  # around a result that is not square: that of the canvas


def triptych(panels: Sequence[Image.Image]) -> Image.Image:
    """Place images side by side, each enlarged to SIDE, on a transparent background."""
    row = Image.new("RGBA", (len(panels) * (SIDE + GAP) - GAP, SIDE))
    for i, panel in enumerate(panels):
        row.paste(panel.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (i * (SIDE + GAP), 0))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    for path in parser.parse_args().results:
        result, workflow = Image.open(path), path.stem.removesuffix("_").rpartition("_")[0]
        thumbnail = ImageOps.pad(result.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS, BORDER)
        thumbnail.save(ROOT / "workflows" / f"{workflow}.jpg", quality=88)
        if workflow == "inpaint":
            panels = [Image.open(FOLDER / f"{SAMPLE}.png"), Image.open(FOLDER / f"{SAMPLE}_mask.png"), result]
            triptych(panels).save(ROOT / "web" / "docs" / "inpaint.png", optimize=True)


if __name__ == "__main__":
    main()
