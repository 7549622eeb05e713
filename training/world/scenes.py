"""Render small storybook scenes with captions: an endless training set, each image a function of its seed."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .backdrops import BACKDROPS, Ground
from .drawing import DUSK, FRAME, SUNLIGHT, Box, Canvas, Pen, ellipse, jitter
from .objects import OBJECTS

KINDS: tuple[str, ...] = tuple(OBJECTS)
BACKGROUNDS: tuple[str, ...] = tuple(BACKDROPS)
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (212, 58, 50),
    "orange": (240, 136, 40),
    "yellow": (248, 208, 62),
    "green": (70, 150, 74),
    "blue": (56, 108, 200),
    "purple": (132, 76, 172),
    "pink": (242, 146, 180),
    "brown": (130, 84, 54),
    "white": (246, 243, 236),
    "black": (50, 48, 56),
}
HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        ("pink", "boat"),
        ("yellow", "house"),
        ("orange", "tree"),
        ("purple", "car"),
        ("green", "balloon"),
        ("black", "umbrella"),
        ("green", "cat"),
        ("blue", "flower"),
        ("purple", "mushroom"),
        ("orange", "cup"),
        ("blue", "apple"),
        ("pink", "rocket"),
    }
)
SMALL, BIG = 45.0, 66.0
EXTENTS = {1: (41.0, 78.0), 2: (38.0, 66.0), 3: (35.0, 54.0)}


@dataclass(frozen=True)
class Item:
    """One object: kind, color, bounding box (x0, y0, x1, y1) in pixels, and "small", "big" or ""."""

    kind: str
    color: str
    box: Box
    size_word: str = ""


@dataclass(frozen=True)
class Scene:
    """An image, uint8 [S, S, 3], with its caption, its items from back to front, and its inverse depth [S, S].

    `nearness` is 0 in the sky and about 1 at the lower edge.
    """

    image: NDArray[np.uint8]
    caption: str
    background: str
    items: tuple[Item, ...]
    nearness: NDArray[np.float32]


@dataclass(frozen=True)
class Spot:
    """The place of an object: middle of its foot, height, width, tilt, and the height of the ground as far away.

    Lengths are in 1/128 of the image, the tilt in degrees.
    """

    x: float
    y: float
    height: float
    width: float
    tilt: float
    ground: float

    def overlap(self, other: Spot) -> float:
        """Return the shared area as a fraction of the smaller of the two, 0..1."""
        across = (self.width + other.width) / 2 - abs(self.x - other.x)
        across = min(across, self.width, other.width)
        down = min(self.y, other.y) - max(self.y - self.height, other.y - other.height)
        return max(0.0, across) * max(0.0, down) / min(self.width * self.height, other.width * other.height)


def render(
    seed: int,
    *,
    size: int = 128,
    items: Sequence[tuple[str, str]] | None = None,
    background: str | None = None,
    count: int | None = None,
) -> Scene:
    """Paint the scene of `seed`, `size` pixels square.

    `items` are (color, kind) pairs, none for the bare background; by default 1 to 3 (or `count`) are drawn at random,
    without those of HELD_OUT. With one seed and `background`, the background is the same whatever the items are.
    """
    rng = np.random.default_rng(seed)
    place = background or str(rng.choice(BACKGROUNDS))
    if items is None:
        items = _choose(rng, count or int(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15])))
    chosen = list(items)
    _check(chosen, place)
    canvas = Canvas(size)
    ground = BACKDROPS[place].paint(canvas, rng)
    spots = _arrange(rng, [kind for _, kind in chosen], ground)
    order = sorted(range(len(chosen)), key=lambda i: (not OBJECTS[chosen[i][1]].flies, spots[i].y))
    drawn = tuple(_draw(canvas, rng, *chosen[i], spots[i], BACKDROPS[place].dark) for i in order)
    return Scene(canvas.image(), caption(rng, drawn, place), place, drawn, canvas.nearness[:, :, 0])


def caption(rng: np.random.Generator, items: Sequence[Item], background: str) -> str:
    """Write a random caption for these items, in any order; some omit the background."""
    if not items:
        return BACKDROPS[background].noun
    shuffled = [items[i] for i in rng.permutation(len(items))]
    sized = bool(rng.random() < 0.5)
    names = [" ".join(filter(None, (item.size_word if sized else "", item.color, item.kind))) for item in shuffled]
    listed = join_words([with_article(name) for name in names])
    style = rng.random()
    if style < 0.1:
        return listed
    if style < 0.22:
        return f"a picture of {listed} {background}"
    if style < 0.34:
        return f"{BACKDROPS[background].noun} with {listed}"
    if style < 0.5:
        return f"{join_words(names)} {background}"
    return f"{listed} {background}"


def plain_caption(color: str, kind: str, background: str) -> str:
    """Return the canonical caption of one object, such as "a purple boat on a beach"."""
    return f"{with_article(f'{color} {kind}')} {background}"


def with_article(noun: str) -> str:
    """Put "a" or "an" before `noun`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def join_words(words: Sequence[str]) -> str:
    """Join words as "a", "a and b" or "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _check(chosen: Sequence[tuple[str, str]], background: str) -> None:
    if background not in BACKDROPS:
        raise ValueError(f"background is {background!r}; use one of {', '.join(BACKGROUNDS)}")
    for color, kind in chosen:
        if color not in COLORS or kind not in OBJECTS:
            raise ValueError(f"item is {(color, kind)!r}; use a color of COLORS and a kind of KINDS")


def _choose(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    kinds = [str(kind) for kind in rng.choice(KINDS, count, replace=False)]
    chosen: list[tuple[str, str]] = []
    for kind in kinds:
        taken = {color for color, _ in chosen} if rng.random() < 0.85 else set()
        free = [color for color in COLORS if (color, kind) not in HELD_OUT and color not in taken]
        chosen.append((str(rng.choice(free)), kind))
    return chosen


def _arrange(rng: np.random.Generator, kinds: Sequence[str], ground: Ground) -> list[Spot]:
    """Draw random arrangements of decreasing size until one has little overlap; else return the least crowded."""
    low, high = EXTENTS[min(3, max(1, len(kinds)))]
    best: list[Spot] = []
    least = math.inf
    for attempt in range(120):
        extents = low, high - (high - low) * attempt / 150
        spots = [_spot(rng, kind, extents, ground, alone=len(kinds) == 1) for kind in kinds]
        crowding = sum(a.overlap(b) for i, a in enumerate(spots) for b in spots[:i])
        if crowding < least:
            best, least = spots, crowding
        if least < 0.06:
            break
    return best


def _spot(rng: np.random.Generator, kind: str, extents: tuple[float, float], ground: Ground, *, alone: bool) -> Spot:
    """Draw a random place for an object; on the ground, nearer objects are lower and bigger."""
    thing = OBJECTS[kind]
    nearness = float(rng.random()) ** 0.7
    tilt = float(rng.uniform(-thing.tilt, thing.tilt))
    height = (extents[0] + (extents[1] - extents[0]) * nearness) * thing.scale
    width = height * (thing.width * math.cos(math.radians(tilt)) + abs(math.sin(math.radians(tilt))))
    x = rng.normal(64, 20) if alone else rng.uniform(0, FRAME)
    if thing.flies:
        y = rng.uniform(1.1 * height + 5, max(1.1 * height + 8, ground.top + 12))
    elif thing.swims and ground.water:
        y = rng.uniform(*ground.water)
    else:
        y = ground.top + (121 - ground.top) * np.clip(0.1 + 0.8 * nearness + rng.normal(0, 0.1), 0.05, 1)
    x = np.clip(x, width / 2 + 4, FRAME - width / 2 - 4)
    y = max(float(y), 1.05 * height + 5)
    # a flying object is as far away as the ground where an object of its size would stand
    below = ground.top + (121 - ground.top) * (0.1 + 0.8 * nearness) if thing.flies else y
    return Spot(float(x), y, height, width, tilt, below)


def _draw(canvas: Canvas, rng: np.random.Generator, color: str, kind: str, spot: Spot, dark: bool) -> Item:
    thing = OBJECTS[kind]
    layer = Canvas(canvas.size)
    body = jitter(rng, COLORS[color], 5)
    thing.draw(Pen(layer, (spot.x, spot.y), spot.height, body, mirror=bool(rng.random() < 0.5), tilt=spot.tilt))
    box = layer.box()
    layer.round_off(box)
    if not thing.flies:
        shadow = ellipse(spot.x + spot.width * 0.08, spot.y - 0.5, spot.width * 0.48, max(2.5, spot.height * 0.07))
        canvas.fill([shadow], DUSK, DUSK, opacity=0.32, blur=1.8)
    if dark:
        canvas.halo(layer, box, SUNLIGHT, (0, 0), 3.0, 0.5)
    else:
        canvas.halo(layer, box, DUSK, (1.2, 1.6), 2.2, 0.34)
    canvas.paste(layer, box, spot.ground)
    extent = spot.height / thing.scale
    return Item(kind, color, box, "small" if extent < SMALL else "big" if extent > BIG else "")


def main() -> None:
    """Write an image of every kind in every color, with random scenes below."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", default="sheet.png", help="image to write")
    rows = [
        [render(97 * i + j, items=[(color, kind)]).image for j, color in enumerate(COLORS)]
        for i, kind in enumerate(KINDS)
    ]
    rows += [[render(1000 + 10 * i + j).image for j in range(len(COLORS))] for i in range(8)]
    Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in rows])).save(parser.parse_args().out)


if __name__ == "__main__":
    main()
