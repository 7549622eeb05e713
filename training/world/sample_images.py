"""Draw the pictures and masks that SD2SampleImage offers: python -m sd2_family.training.world.sample_images"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from .scenes import Item, render

FOLDER = Path(__file__).parents[2] / "nodes" / "samples"
# name: seed, background, what is there; the first is masked
PICTURES = {
    "beach": (50_000_076, "on a beach", [("red", "boat")]),
    "desert": (50_000_034, "in the desert", [("yellow", "car")]),
    "forest": (50_000_024, "in a forest", [("white", "cat")]),
    "night": (50_000_025, "under a night sky", [("pink", "mushroom")]),
    "snow": (50_000_014, "in the snow", [("green", "flower"), ("orange", "umbrella")]),
    "sunset": (50_000_024, "at sunset", [("blue", "balloon")]),
}


def mask(item: Item, size: tuple[int, int]) -> Image.Image:
    """What a hand would paint over `item`: its box with a margin, wider where its shadow falls, white on black."""
    left, top, right, bottom = item.box
    picture = Image.new("L", size)
    ImageDraw.Draw(picture).rounded_rectangle((left - 7, top - 7, right + 14, bottom + 8), 24, fill=255)
    return picture


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (seed, background, items) in PICTURES.items():
        scene = render(seed, items=items, background=background)
        picture = Image.fromarray(scene.image)
        item = next(item for item in scene.items if (item.colour, item.kind) == items[0])
        picture.save(FOLDER / f"{name}.png", optimize=True)
        mask(item, picture.size).save(FOLDER / f"{name}_mask.png", optimize=True)


if __name__ == "__main__":
    main()
