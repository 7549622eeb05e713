"""Inpainting cases with a known truth: unseen scenes, the image that the hole hides, and a prompt for the hole."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...pipeline.lama_masks import Mask, binary, boxes, strokes
from ...training import dataset
from ...training.random_masks import Box, hidden_fraction
from ...training.trials import PAIRS, object_mask
from ...training.world.scenes import BACKGROUNDS, KINDS, Scene, plain_caption, render

Pixels = NDArray[np.uint8]  # [H, W, 3]
Rng = np.random.Generator

FIRST_SEED = 7 * dataset.FIRST_UNSEEN
MOST = 0.5  # of the image under the mask
CUT = 0.25, 0.75  # the fraction of the scene's object that a mask which cuts it may cover
SCRATCH = 2  # width of a scratch in pixels
HOLE = 30  # side of the second hole in pixels
MARGIN = 4  # between holes
LARGE, SMALL_HOLE = 512, 112  # sides of an image and its hole in pixels
PHOTO, TINY_HOLE = 2048, 64
RAMP, REFINE = 16, 0.6  # px over which a soft mask rises, and the denoise that refines what is under it


@dataclass(frozen=True)
class Case:
    """What is given, and what is known of the result.

    image: the input. truth: the input without what the mask hides, the same outside it. prompt: for the whole image;
    it asks for one object of this color and kind, or for none (""). holes: the parts of the mask where it may be.
    denoise: how much of what is under the mask changes.
    """

    name: str
    seed: int
    image: Pixels
    truth: Pixels
    mask: Mask
    prompt: str
    color: str = ""
    kind: str = ""
    holes: tuple[Mask, ...] = ()
    denoise: float = 1.0


@dataclass(frozen=True)
class Place:
    """A scene before the mask is drawn: its object, the one asked for, and the bare background."""

    seed: int
    before: Scene
    wanted: Scene
    bare: Scene

    def case(self, name: str, mask: Mask, *holes: Mask) -> Case:
        """Repaint what is under the mask to the object that is asked for; outside it lies the bare background."""
        hole, item = mask[..., None] > 0, self.wanted.items[0]
        image = np.where(hole, self.before.image, self.bare.image)
        prompt = plain_caption(item.color, item.kind, self.wanted.background)
        return Case(name, self.seed, image, self.bare.image, mask, prompt, item.color, item.kind, holes or (mask,))


def places(first: int) -> Iterator[Place]:
    """Draw scenes from seed `first` on; every pair of color and kind is asked for in turn."""
    order = np.random.default_rng(5).permutation(len(PAIRS))
    for count, seed in enumerate(itertools.count(first)):
        rng = np.random.default_rng((seed, 6))
        color, kind = PAIRS[order[count % len(PAIRS)]]
        other = str(rng.choice([name for name in KINDS if name != kind]))
        background = str(rng.choice(BACKGROUNDS))
        scenes = (
            render(seed, size=dataset.SIZE, items=items, background=background)
            for items in ([(str(rng.choice([c for c, k in PAIRS if k == other])), other)], [(color, kind)], [])
        )
        yield Place(seed, *scenes)


def object_case(place: Place) -> Case | None:
    """The mask lies around the place where the object that is asked for could be."""
    mask = object_mask(np.random.default_rng((place.seed, 3)), place.wanted.items[0])
    return place.case("object", mask) if mask.mean() <= MOST else None


def lama_case(place: Place) -> Case:
    """Strokes or boxes anywhere (Suvorov et al. 2021, arXiv:2109.07161)."""
    rng = np.random.default_rng((place.seed, 3))
    return place.case("lama", binary((strokes if rng.random() < 0.5 else boxes)(rng, dataset.SIZE, dataset.SIZE)))


def border_case(place: Place) -> Case:
    """The mask reaches two borders of the image: the object's box with a margin, drawn out to the nearest corner."""
    left, top, right, bottom = padded(place.wanted.items[0].box)
    mask = np.zeros((dataset.SIZE, dataset.SIZE), np.float32)
    columns = slice(0, right) if left + right < dataset.SIZE else slice(left, None)
    rows = slice(0, bottom) if top + bottom < dataset.SIZE else slice(top, None)
    mask[rows, columns] = 1
    return place.case("two borders", mask)


def two_holes_case(place: Place) -> Case | None:
    """A second hole, clear of the first: the object fits only into the first."""
    case, rng = object_case(place), np.random.default_rng((place.seed, 8))
    if case is None:
        return None
    first = case.mask
    for _ in range(20):
        top, left = rng.integers(MARGIN, dataset.SIZE - HOLE - MARGIN, 2)
        around = slice(top - MARGIN, top + HOLE + MARGIN), slice(left - MARGIN, left + HOLE + MARGIN)
        if not first[around].any():
            second = np.zeros_like(first)
            second[top : top + HOLE, left : left + HOLE] = 1
            return place.case("two holes", first + second, first, second)
    return None


def scratch_case(place: Place) -> Case:
    """A bent scratch over the bare background, and a prompt for nothing but that."""
    rng = np.random.default_rng((place.seed, 3))
    columns = np.arange(dataset.SIZE)
    bend = rng.uniform(-20, 20) * np.sin(columns / dataset.SIZE * np.pi)
    rows = (rng.uniform(30, 98) + rng.uniform(-0.4, 0.4) * (columns - dataset.SIZE / 2) + bend).astype(int)
    mask = np.zeros((dataset.SIZE, dataset.SIZE), np.float32)
    for offset in range(SCRATCH):
        inside = (rows + offset >= 0) & (rows + offset < dataset.SIZE)
        mask[(rows + offset)[inside], columns[inside]] = 1
    image = np.where(mask[..., None] > 0, np.uint8(255), place.bare.image)
    return Case("scratch", place.seed, image, place.bare.image, mask, place.bare.caption)


def cut_case(place: Place) -> Case | None:
    """The mask cuts through the object that is there. What is cut off has no known truth; the image stands for it."""
    mask = object_mask(np.random.default_rng((place.seed, 3)), place.wanted.items[0])
    if not CUT[0] < hidden_fraction(mask, [place.before.items[0].box]) < CUT[1]:
        return None
    item = place.wanted.items[0]
    prompt = plain_caption(item.color, item.kind, place.wanted.background)
    image = place.before.image
    return Case("cut object", place.seed, image, image, mask, prompt, item.color, item.kind, (mask,))


def small_hole_case(place: Place) -> Case:
    """A hole of 112 px in a bare scene of 512 px, four times the size that the demo was trained at."""
    top, left = np.random.default_rng((place.seed, 3)).integers(LARGE // 4, LARGE - SMALL_HOLE, 2)
    return bare_case("small hole", place, LARGE, SMALL_HOLE, top, left)


def large_border_case(place: Place) -> Case:
    """The same hole in a lower corner, at two borders of the image."""
    left = np.random.default_rng((place.seed, 3)).choice([0, LARGE - SMALL_HOLE])
    return bare_case("borders at 512", place, LARGE, SMALL_HOLE, LARGE - SMALL_HOLE, left)


def tiny_hole_case(place: Place) -> Case:
    """A hole of 64 px in a bare scene of 2048 px."""
    top, left = np.random.default_rng((place.seed, 3)).integers(PHOTO // 2, PHOTO - TINY_HOLE, 2)
    return bare_case("hole in 2048", place, PHOTO, TINY_HOLE, top, left)


def bare_case(name: str, place: Place, size: int, side: int, top: int, left: int) -> Case:
    """A hole of `side` pixels in a bare scene of `size` pixels, and a prompt for an object."""
    scene = render(place.seed, size=size, items=[], background=place.bare.background)
    mask = np.zeros((size, size), np.float32)
    mask[top : top + side, left : left + side] = 1
    item = place.wanted.items[0]
    prompt = plain_caption(item.color, item.kind, scene.background)
    return Case(name, place.seed, scene.image, scene.image, mask, prompt, item.color, item.kind, (mask,))


def soft_case(place: Place) -> Case:
    """A mask that rises over some pixels around the object that is there, which is to take another color.

    The image stands for the truth: what the mask hardly covers should stay as it is.
    """
    item, rng = place.wanted.items[0], np.random.default_rng((place.seed, 3))
    left, top, right, bottom = padded(item.box)
    rows, columns = np.arange(dataset.SIZE)[:, None] + 0.5, np.arange(dataset.SIZE) + 0.5
    outside = np.maximum(
        np.maximum(left - columns, columns - right).clip(0), np.maximum(top - rows, rows - bottom).clip(0)
    )
    mask = (1 - outside / RAMP).clip(0).astype(np.float32)
    color = str(rng.choice([color for color, kind in PAIRS if kind == item.kind and color != item.color]))
    prompt, image = plain_caption(color, item.kind, place.wanted.background), place.wanted.image
    hole = (mask >= 1).astype(np.float32)
    return Case("soft ramp", place.seed, image, image, mask, prompt, color, item.kind, (hole,), REFINE)


def is_soft(case: Case) -> bool:
    """Whether its mask has values between 0 and 1."""
    return bool(((case.mask > 0) & (case.mask < 1)).any())


def padded(box: Box, margin: int = 8) -> tuple[int, int, int, int]:
    """A box with a margin, within the image."""
    left, top, right, bottom = box
    end = dataset.SIZE
    return max(0, left - margin), max(0, top - margin), min(end, right + margin), min(end, bottom + margin)


SETS: dict[str, Callable[[Place], Case | None]] = {
    "object": object_case,
    "lama": lama_case,
    "two borders": border_case,
    "two holes": two_holes_case,
    "scratch": scratch_case,
    "cut object": cut_case,
    "small hole": small_hole_case,
    "borders at 512": large_border_case,
    "hole in 2048": tiny_hole_case,
    "soft ramp": soft_case,
}


def cases(name: str, count: int) -> list[Case]:
    """The first `count` cases of a set of `SETS`; scenes that do not suit it are skipped."""
    found = (SETS[name](place) for place in places(FIRST_SEED + 100_000 * list(SETS).index(name)))
    return list(itertools.islice((case for case in found if case is not None), count))
