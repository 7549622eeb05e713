"""Draw the images and masks that SD2SampleImage offers: python -m sd2_family.training.world.sample_images"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from .scenes import Item, Scene, render

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
CUT_OUT = "meadow", 50_000_025, "in a meadow", ("red", "rocket")  # the mask is the object itself
LARGE = "snowfield", 60_000_003, "in the snow"  # four times the demo's size, with a small hole where nothing is yet
LARGE_SIZE, LARGE_HOLE = 512, (186, 246, 336, 400)
OUTLINE = 24  # of 255: a larger change of the background is the object, not its soft shadow


def mask(item: Item, size: tuple[int, int]) -> Image.Image:
    """Draw the mask that a user would paint over `item`: its box with a margin, wider on the side of its shadow."""
    left, top, right, bottom = item.box
    return box_mask((left - 7, top - 7, right + 14, bottom + 8), size, 24)


def box_mask(box: tuple[int, int, int, int], size: tuple[int, int], radius: int) -> Image.Image:
    """Draw a box with round corners."""
    image = Image.new("L", size)
    ImageDraw.Draw(image).rounded_rectangle(box, radius, fill=255)
    return image


def outline(scene: Scene, bare: Scene) -> Image.Image:
    """Draw the mask of a scene's only item: where it hides the background, without the mixed pixels of its edge."""
    left, top, right, bottom = scene.items[0].box
    changed = np.abs(scene.image.astype(int) - bare.image).max(2) > OUTLINE
    inside = np.zeros_like(changed)
    inside[top:bottom, left:right] = True
    solid = ndimage.binary_erosion(ndimage.binary_fill_holes(changed & inside))
    return Image.fromarray(np.uint8(solid) * 255)


def save(name: str, scene: Scene, mask: Image.Image) -> None:
    """Write a sample's image and mask."""
    Image.fromarray(scene.image).save(FOLDER / f"{name}.png", optimize=True)
    mask.save(FOLDER / f"{name}_mask.png", optimize=True)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (seed, background, items) in SAMPLES.items():
        scene = render(seed, items=items, background=background)
        item = next(item for item in scene.items if (item.color, item.kind) == items[0])
        save(name, scene, mask(item, scene.image.shape[:2]))
    name, seed, background, only = CUT_OUT
    scene = render(seed, items=[only], background=background)
    save(name, scene, outline(scene, render(seed, items=[], background=background)))
    name, seed, background = LARGE
    scene = render(seed, size=LARGE_SIZE, items=[], background=background)
    save(name, scene, box_mask(LARGE_HOLE, (LARGE_SIZE, LARGE_SIZE), 36))


if __name__ == "__main__":
    main()
