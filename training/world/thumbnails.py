"""Remake the thumbnails of the workflows.

    python -m sd2_family.training.world.thumbnails RESULT.png...

Each RESULT is an output of `sd2 run` for one of the workflows, such as inpaint_00001_.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageOps

ROOT = Path(__file__).parents[2]
SIDE = 256  # pixels
BORDER = "#202020"  # around a result that is not square: that of the canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    for path in parser.parse_args().results:
        result, workflow = Image.open(path), path.stem.removesuffix("_").rpartition("_")[0]
        thumbnail = ImageOps.pad(result.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS, BORDER)
        thumbnail.save(ROOT / "workflows" / f"{workflow}.jpg", quality=88)


if __name__ == "__main__":
    main()
