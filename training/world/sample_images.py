"""Draw the images and masks that SD2SampleImage offers: python -m sd2_family.training.world.sample_images"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from .scenes import Item, render

FOLDER = Path(__file__).parents[2] / "nodes" / "samples"
# name: seed, background, items; the first item is masked
SAMPLES = {
    "beach": (50_000_076, "on a beach", [("red", "boat")]),
    "desert": (50_000_034, "in the desert", [("yellow", "car")]),
    "forest": (50_000_024, "in a forest", [("white", "cat")]),
    "night": (50_000_025, "under a night sky", [("pink", "mushroom")]),
    "snow": (50_000_014, "in the snow", [("green", "flower"), ("orange", "umbrella")]),
    "sunset": (50_000_024, "at sunset", [("blue", "balloon")]),
}


def mask(item: Item, size: tuple[int, int]) -> Image.Image:
    """Draw the mask that a user would paint over `item`: its box with a margin, wider on the side of its shadow."""
    left, top, right, bottom = item.box
    image = Image.new("L", size)
    ImageDraw.Draw(image).rounded_rectangle((left - 7, top - 7, right + 14, bottom + 8), 24, fill=255)
    return image


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (seed, background, items) in SAMPLES.items():
        scene = render(seed, items=items, background=background)
        image = Image.fromarray(scene.image)
        item = next(item for item in scene.items if (item.color, item.kind) == items[0])
        image.save(FOLDER / f"{name}.png", optimize=True)
        mask(item, image.size).save(FOLDER / f"{name}_mask.png", optimize=True)


if __name__ == "__main__":
    main()
