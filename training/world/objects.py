"""Draw the objects of scenes: one function each, with a `Pen` in units of the object's own height."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .drawing import Color, Pen, ellipse, luminance, mix, ribbon, rounded, smooth

CREAM: Color = (250, 240, 218)
WOOD: Color = (142, 100, 66)
SLATE: Color = (62, 62, 76)
GLASS: Color = (190, 222, 232)
LEAF: Color = (96, 148, 82)
HONEY: Color = (246, 196, 84)


def contrast(pen: Pen) -> Color:
    """Return an accent that is visible on the object's own color."""
    return SLATE if luminance(pen.body) > 215 else CREAM


def eye(pen: Pen, x: float, y: float, radius: float) -> None:
    """Draw a round eye: dark, or cream with a dark pupil on a dark object."""
    if luminance(pen.body) < 90:
        pen.shape(ellipse(x, y, radius * 1.5, radius * 1.5), color=CREAM, depth=0)
    pen.shape(ellipse(x, y, radius, radius), color=(40, 36, 48), depth=0)


def boat(pen: Pen) -> None:
    pen.shape(rounded(-0.05, 0.2, 0.01, 1.0, 0.03), color=WOOD)
    pen.shape(smooth([(0.03, 0.34), (0.04, 0.96), (0.25, 0.68), (0.46, 0.36), (0.25, 0.33)]), color=pen.pale)
    pen.blob((-0.09, 0.37), (-0.1, 0.86), (-0.26, 0.6), (-0.42, 0.38), (-0.25, 0.36), color=CREAM)
    pen.blob(
        (-0.6, 0.3),
        (-0.3, 0.27),
        (0, 0.26),
        (0.3, 0.27),
        (0.62, 0.33),
        (0.5, 0.1),
        (0.36, 0.01),
        (0, 0),
        (-0.36, 0.01),
        (-0.5, 0.1),
    )
    pen.shape(ribbon([(-0.5, 0.2), (-0.2, 0.17), (0.2, 0.17), (0.52, 0.21)], 0.06), color=contrast(pen), opacity=0.9)


def house(pen: Pen) -> None:
    pen.shape(rounded(0.2, 0.6, 0.34, 0.98, 0.02), color=pen.deep)
    pen.shape(rounded(-0.42, 0, 0.42, 0.6, 0.03))
    pen.shape(smooth([(-0.56, 0.5), (-0.28, 0.76), (0, 1.0), (0.28, 0.76), (0.56, 0.5), (0, 0.54)]), color=pen.deep)
    pen.shape(rounded(-0.1, 0, 0.1, 0.34, 0.06), color=WOOD)
    window = (252, 222, 140) if luminance(pen.body) < 215 else SLATE
    for x in (-0.27, 0.27):
        pen.shape(rounded(x - 0.085, 0.2, x + 0.085, 0.4, 0.03), color=window, depth=0.6)


def tree(pen: Pen) -> None:
    pen.shape(smooth([(-0.07, 0.5), (0.07, 0.5), (0.08, 0.15), (0.15, 0), (-0.15, 0), (-0.08, 0.15)]), color=WOOD)
    pen.shape(
        ellipse(-0.2, 0.5, 0.23, 0.2),
        ellipse(0.2, 0.52, 0.24, 0.21),
        ellipse(0, 0.74, 0.28, 0.26),
        ellipse(0, 0.52, 0.2, 0.2),
    )
    pen.shape(ellipse(-0.1, 0.8, 0.11, 0.09), ellipse(-0.25, 0.55, 0.1, 0.08), color=pen.pale, opacity=0.7, depth=0)


def car(pen: Pen) -> None:
    pen.blob((-0.58, 0.5), (-0.4, 0.92), (0, 1.0), (0.3, 0.9), (0.52, 0.5), (0, 0.42))
    pen.shape(
        smooth([(-0.42, 0.56), (-0.32, 0.82), (-0.06, 0.87), (-0.06, 0.56)]),
        smooth([(0.05, 0.56), (0.05, 0.87), (0.24, 0.8), (0.38, 0.56)]),
        color=GLASS,
    )
    pen.shape(rounded(-0.86, 0.16, 0.88, 0.6, 0.2))
    pen.shape(rounded(-0.7, 0.46, 0.5, 0.53, 0.03), color=pen.pale, opacity=0.7, depth=0)
    pen.shape(ellipse(0.8, 0.42, 0.08, 0.08), color=HONEY, depth=0)
    for x in (-0.46, 0.46):
        pen.shape(ellipse(x, 0.2, 0.2, 0.2), color=SLATE)
        pen.shape(ellipse(x, 0.2, 0.09, 0.09), color=CREAM)


def balloon(pen: Pen) -> None:
    pen.shape([(-0.12, 0.36), (0.12, 0.36), (0.08, 0.16), (-0.08, 0.16)], color=WOOD, opacity=0.55)
    pen.shape(rounded(-0.1, 0, 0.1, 0.17, 0.04), color=WOOD)
    pen.blob(
        (0, 1.0),
        (0.26, 0.92),
        (0.37, 0.68),
        (0.26, 0.45),
        (0.12, 0.31),
        (-0.12, 0.31),
        (-0.26, 0.45),
        (-0.37, 0.68),
        (-0.26, 0.92),
    )
    pen.blob((0, 0.99), (0.12, 0.68), (0.05, 0.32), (-0.05, 0.32), (-0.12, 0.68), color=contrast(pen), opacity=0.85)


def umbrella(pen: Pen) -> None:
    pen.shape(
        ribbon([(0, 0.95), (0, 0.5), (0, 0.16), (0.03, 0.06), (0.1, 0.03), (0.17, 0.06), (0.19, 0.15)], 0.06),
        color=WOOD,
    )
    dome = ellipse(0, 0.48, 0.58, 0.46, 0, 180)
    scallops = [ellipse(x, 0.48, 0.146, 0.07) for x in (-0.435, -0.145, 0.145, 0.435)]
    pen.shape(dome, *scallops)
    pen.shape(
        smooth([(0, 0.94), (0.17, 0.7), (0.22, 0.46), (0, 0.42), (-0.22, 0.46), (-0.17, 0.7)]),
        color=pen.pale,
        opacity=0.8,
    )
    pen.shape(ellipse(0, 0.95, 0.045, 0.05), color=WOOD)


def cat(pen: Pen) -> None:
    pen.shape(ribbon([(0.16, 0.08), (0.36, 0.08), (0.46, 0.22), (0.42, 0.4), (0.48, 0.52)], 0.11), color=pen.deep)
    pen.blob((0, 0.62), (0.2, 0.5), (0.3, 0.2), (0.24, 0.02), (0, 0), (-0.24, 0.02), (-0.3, 0.2), (-0.2, 0.5))
    pen.blob((0, 0.42), (0.12, 0.28), (0.1, 0.08), (-0.1, 0.08), (-0.12, 0.28), color=mix(pen.pale, CREAM, 0.45))
    pen.shape(
        ellipse(0, 0.7, 0.31, 0.23),
        [(-0.31, 0.7), (-0.27, 1.0), (-0.05, 0.86)],
        [(0.31, 0.7), (0.27, 1.0), (0.05, 0.86)],
    )
    pen.shape(
        [(-0.25, 0.84), (-0.24, 0.94), (-0.15, 0.87)],
        [(0.25, 0.84), (0.24, 0.94), (0.15, 0.87)],
        color=(238, 160, 160),
        depth=0,
    )
    pen.shape(
        ellipse(-0.055, 0.62, 0.085, 0.07),
        ellipse(0.055, 0.62, 0.085, 0.07),
        color=mix(pen.pale, CREAM, 0.6),
        depth=0,
    )
    pen.shape(ellipse(0, 0.655, 0.04, 0.03), color=(216, 110, 120), depth=0)
    eye(pen, -0.14, 0.74, 0.042)
    eye(pen, 0.14, 0.74, 0.042)


def flower(pen: Pen) -> None:
    pen.shape(ribbon([(0, 0.6), (0.02, 0.4), (0, 0.2), (0, 0)], 0.07), color=LEAF)
    pen.blob((0, 0.08), (0.14, 0.2), (0.34, 0.3), (0.26, 0.12), color=LEAF)
    pen.blob((0, 0.05), (-0.14, 0.16), (-0.32, 0.22), (-0.24, 0.06), color=LEAF)
    angles = np.radians(np.arange(0, 360, 60) + 30)
    petals = [ellipse(0.2 * float(np.cos(a)), 0.67 + 0.2 * float(np.sin(a)), 0.135, 0.135) for a in angles]
    pen.shape(*petals, ellipse(0, 0.67, 0.2, 0.2))
    yellowish = pen.body[0] > 190 and pen.body[1] > 120 and pen.body[2] < 110
    pen.shape(ellipse(0, 0.67, 0.115, 0.115), color=(150, 92, 52) if yellowish else HONEY)


def mushroom(pen: Pen) -> None:
    pen.blob((-0.15, 0.5), (0.15, 0.5), (0.16, 0.2), (0.2, 0.02), (0, 0), (-0.2, 0.02), (-0.16, 0.2), color=CREAM)
    pen.blob(
        (0, 1.0),
        (0.3, 0.93),
        (0.52, 0.68),
        (0.56, 0.46),
        (0.3, 0.38),
        (0, 0.36),
        (-0.3, 0.38),
        (-0.56, 0.46),
        (-0.52, 0.68),
        (-0.3, 0.93),
    )
    for x, y, r in ((-0.24, 0.74, 0.1), (0.12, 0.82, 0.085), (0.3, 0.58, 0.09), (-0.02, 0.54, 0.07)):
        pen.shape(ellipse(x, y, r, r * 0.9), color=contrast(pen), opacity=0.9, depth=0.4)


def cup(pen: Pen) -> None:
    handle = ribbon([(0.3, 0.72), (0.56, 0.72), (0.62, 0.5), (0.5, 0.28), (0.28, 0.24)], 0.12)
    pen.shape(ellipse(0, 0.07, 0.6, 0.07), color=CREAM)
    pen.shape(handle, color=pen.deep)
    pen.blob((-0.42, 0.9), (-0.4, 0.5), (-0.3, 0.16), (0, 0.07), (0.3, 0.16), (0.4, 0.5), (0.42, 0.9), (0, 0.84))
    pen.shape(ellipse(0, 0.9, 0.42, 0.1), color=pen.pale)
    pen.shape(ellipse(0, 0.89, 0.33, 0.065), color=(112, 72, 48), depth=0.5)
    pen.shape(ellipse(-0.22, 0.52, 0.05, 0.18), color=pen.pale, opacity=0.7, depth=0)


def apple(pen: Pen) -> None:
    pen.blob(
        (0, 0.8),
        (0.24, 0.87),
        (0.48, 0.7),
        (0.46, 0.36),
        (0.26, 0.05),
        (0, 0.06),
        (-0.26, 0.05),
        (-0.46, 0.36),
        (-0.48, 0.7),
        (-0.24, 0.87),
    )
    pen.shape(ribbon([(0, 0.74), (0.01, 0.86), (0.06, 0.98)], 0.07), color=WOOD)
    pen.blob((0.06, 0.84), (0.16, 0.99), (0.4, 1.0), (0.28, 0.86), color=LEAF)
    pen.blob((-0.34, 0.7), (-0.2, 0.76), (-0.22, 0.6), (-0.34, 0.42), color=pen.pale, opacity=0.8, depth=0)


def rocket(pen: Pen) -> None:
    pen.blob((0, 0), (0.12, 0.12), (0.1, 0.26), (-0.1, 0.26), (-0.12, 0.12), color=(246, 150, 60))
    pen.blob((0, 0.08), (0.06, 0.16), (0.05, 0.25), (-0.05, 0.25), (-0.06, 0.16), color=(255, 226, 130), depth=0)
    pen.blob((-0.1, 0.5), (-0.34, 0.3), (-0.34, 0.14), (-0.1, 0.24), color=pen.deep)
    pen.blob((0.1, 0.5), (0.34, 0.3), (0.34, 0.14), (0.1, 0.24), color=pen.deep)
    pen.blob((0, 1.0), (0.16, 0.8), (0.22, 0.52), (0.14, 0.22), (0, 0.2), (-0.14, 0.22), (-0.22, 0.52), (-0.16, 0.8))
    pen.shape(ellipse(0, 0.6, 0.13, 0.13), color=contrast(pen))
    pen.shape(ellipse(0, 0.6, 0.085, 0.085), color=GLASS)


@dataclass(frozen=True)
class Kind:
    """How to draw an object, its width relative to its height, its greatest tilt in degrees, and where it belongs."""

    draw: Callable[[Pen], None]
    width: float
    flies: bool = False
    tilt: float = 0.0
    swims: bool = False

    @property
    def scale(self) -> float:
        """Height for an extent of 1, so that wide objects take no more room than tall ones."""
        return min(1.0, 1.25 / self.width)


OBJECTS: dict[str, Kind] = {
    "boat": Kind(boat, 1.24, tilt=3, swims=True),
    "house": Kind(house, 1.12),
    "tree": Kind(tree, 0.88),
    "car": Kind(car, 1.74),
    "balloon": Kind(balloon, 0.76, flies=True, tilt=5),
    "umbrella": Kind(umbrella, 1.16, tilt=10),
    "cat": Kind(cat, 1.06),
    "flower": Kind(flower, 0.68, tilt=4),
    "mushroom": Kind(mushroom, 1.12),
    "cup": Kind(cup, 1.36),
    "apple": Kind(apple, 0.96, tilt=6),
    "rocket": Kind(rocket, 0.7, flies=True, tilt=28),
}
