"""Paint the backgrounds of scenes: one function each, in large soft shapes that vary with the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .drawing import DUSK, FRAME, SUNLIGHT, Array, Canvas, Color, ellipse, jitter, mix, rounded, smooth

Rng = np.random.Generator
UP = (0.0, -1.0)


@dataclass(frozen=True)
class Ground:
    """The height where solid ground begins, and the heights between which there is water, if any."""

    top: float
    water: tuple[float, float] | None = None


def ridge(rng: Rng, y: float, swing: float, waves: float) -> Array:
    """Return the outline of land below a smooth skyline around height `y`."""
    x = np.linspace(-4, FRAME + 4, 40, dtype=np.float32)
    phase, turn = rng.uniform(0, 2 * np.pi, 2)
    top = y + swing * (0.7 * np.sin(x / FRAME * 2 * np.pi * waves + phase) + 0.3 * np.sin(x / 17 + turn))
    below = [[FRAME + 4, FRAME + 4], [-4, FRAME + 4]]
    return np.concatenate([np.stack([x, top], 1), below]).astype(np.float32)


def land(canvas: Canvas, rng: Rng, y: float, swing: float, waves: float, color: Color, shade: float = 0.16) -> None:
    """Fill the area below a new ridge, paler along its top."""
    near = mix(color, DUSK, shade)
    canvas.fill([ridge(rng, y, swing, waves)], mix(color, SUNLIGHT, 0.22), near, toward=UP, lies=True)


def clouds(canvas: Canvas, rng: Rng, color: Color, horizon: float, most: int = 3) -> None:
    """Paint up to `most` soft clouds in the sky above `horizon`."""
    for _ in range(int(rng.integers(0, most + 1))):
        x, y, r = rng.uniform(8, 120), rng.uniform(10, horizon * 0.55), rng.uniform(5, 9)
        puffs = [
            ellipse(x, y, r * 1.1, r * 0.9),
            ellipse(x + r * 1.2, y + r * 0.35, r, r * 0.6),
            ellipse(x - r * 1.2, y + r * 0.4, r * 0.9, r * 0.55),
        ]
        canvas.fill(puffs, color, mix(color, (150, 170, 205), 0.25), toward=UP, opacity=0.8, blur=0.8)


def sun(canvas: Canvas, rng: Rng, y: float, radius: float, color: Color, glow: float = 0.45) -> None:
    """Paint a sun or moon with its glow at a random place along the sky."""
    x = float(rng.choice([rng.uniform(12, 46), rng.uniform(82, 116)]))
    canvas.glow(x, y, radius * 3.2, color, glow)
    canvas.fill([ellipse(x, y, radius, radius)], color, mix(color, (250, 220, 150), 0.3), foot=0)


def firs(canvas: Canvas, rng: Rng, y: float, color: Color, count: int, height: float) -> None:
    """Paint `count` rounded fir trees standing at height `y`."""
    for x in rng.uniform(0, FRAME, count):
        h = height * rng.uniform(0.7, 1.2)
        outline = smooth(
            [(x, y - h), (x + h * 0.2, y - h * 0.4), (x + h * 0.28, y), (x - h * 0.28, y), (x - h * 0.2, y - h * 0.4)]
        )
        canvas.fill([outline], mix(color, SUNLIGHT, 0.15), mix(color, DUSK, 0.1))


def beach(canvas: Canvas, rng: Rng) -> Ground:
    horizon = rng.uniform(46, 60)
    canvas.gradient((0, jitter(rng, (132, 198, 228), 8)), (horizon, jitter(rng, (228, 240, 234), 6)))
    sun(canvas, rng, rng.uniform(14, 30), rng.uniform(7, 10), (255, 238, 170))
    clouds(canvas, rng, (255, 253, 246), horizon)
    sea = jitter(rng, (84, 176, 190), 8)
    deep, shallow = mix(sea, (40, 110, 160), 0.35), mix(sea, SUNLIGHT, 0.5)
    canvas.fill([rounded(-9, horizon, 137, 137, 1)], deep, shallow, toward=UP, lies=True)
    shore = horizon + rng.uniform(20, 28)
    sand = jitter(rng, (238, 214, 164), 6)
    edge = ridge(rng, shore, 4, 0.7)
    canvas.fill([edge - np.array([0, 2.5], np.float32)], (244, 248, 238), (244, 248, 238), lies=True)
    light, dark = mix(sand, SUNLIGHT, 0.22), mix(sand, DUSK, 0.1)
    canvas.fill([edge + np.array([0, 1.5], np.float32)], light, dark, toward=UP, lies=True)
    return Ground(shore + 4, (horizon + 10, shore - 3))


def meadow(canvas: Canvas, rng: Rng) -> Ground:
    horizon = rng.uniform(56, 72)
    canvas.gradient((0, jitter(rng, (150, 206, 236), 8)), (horizon, jitter(rng, (240, 244, 226), 6)))
    sun(canvas, rng, rng.uniform(14, 30), rng.uniform(7, 10), (255, 236, 160))
    clouds(canvas, rng, (255, 254, 248), horizon)
    grass = jitter(rng, (176, 208, 124), 8)
    land(canvas, rng, horizon - 4, 7, 0.9, mix(grass, (150, 200, 190), 0.45), 0.05)
    for x in rng.uniform(0, FRAME, int(rng.integers(1, 5))):
        r = rng.uniform(4, 7)
        canvas.fill(
            [ellipse(x, horizon, r, r * 1.1), ellipse(x + r, horizon + 2, r * 0.8, r * 0.8)],
            mix(grass, SUNLIGHT, 0.1),
            mix(grass, (90, 150, 120), 0.5),
        )
    land(canvas, rng, horizon + 5, 5, 0.7, grass, 0.1)
    land(canvas, rng, horizon + 22, 4, 0.6, mix(grass, (150, 190, 90), 0.5), 0.08)
    return Ground(horizon + 8)


def snow(canvas: Canvas, rng: Rng) -> Ground:
    horizon = rng.uniform(56, 70)
    canvas.gradient((0, jitter(rng, (156, 184, 214), 8)), (horizon, jitter(rng, (230, 226, 232), 6)))
    sun(canvas, rng, rng.uniform(14, 30), rng.uniform(7, 9), (255, 244, 222))
    land(canvas, rng, horizon - 6, 9, 0.8, jitter(rng, (188, 206, 226), 5), 0.05)
    firs(canvas, rng, horizon + 4, jitter(rng, (124, 158, 172), 8), int(rng.integers(2, 6)), 26)
    land(canvas, rng, horizon + 3, 4, 0.8, (236, 240, 246), 0.12)
    land(canvas, rng, horizon + 24, 4, 0.6, (240, 243, 248), 0.14)
    return Ground(horizon + 7)


def desert(canvas: Canvas, rng: Rng) -> Ground:
    horizon = rng.uniform(54, 70)
    canvas.gradient((0, jitter(rng, (146, 204, 214), 8)), (horizon, jitter(rng, (252, 232, 196), 6)))
    sun(canvas, rng, rng.uniform(16, 32), rng.uniform(9, 13), (255, 240, 180), 0.6)
    sand = jitter(rng, (232, 188, 128), 7)
    land(canvas, rng, horizon - 3, 8, 0.9, mix(sand, (226, 168, 150), 0.5), 0.05)
    for _ in range(int(rng.integers(0, 3))):
        x, y, h = rng.uniform(6, 122), horizon + 8, rng.uniform(18, 26)
        arm = h * 0.24
        cactus = [
            rounded(x - 3, y - h, x + 3, y, 2.9),
            rounded(x - arm - 5, y - h * 0.55, x, y - h * 0.55 + 4.4, 2.1),
            rounded(x - arm - 5, y - h * 0.8, x - arm - 0.8, y - h * 0.55 + 4.4, 2.0),
        ]
        canvas.fill(cactus, (160, 184, 132), (120, 152, 118))
    land(canvas, rng, horizon + 6, 5, 0.7, sand, 0.08)
    land(canvas, rng, horizon + 24, 5, 0.6, mix(sand, SUNLIGHT, 0.2), 0.12)
    return Ground(horizon + 10)


def lake(canvas: Canvas, rng: Rng) -> Ground:
    horizon = rng.uniform(48, 60)
    canvas.gradient((0, jitter(rng, (160, 204, 230), 8)), (horizon, jitter(rng, (244, 238, 224), 6)))
    clouds(canvas, rng, (255, 253, 246), horizon, 2)
    far = jitter(rng, (148, 172, 200), 8)
    for x in rng.uniform(0, FRAME, 3):
        h, w = rng.uniform(26, 40), rng.uniform(34, 50)
        canvas.fill(
            [
                smooth(
                    [
                        (x, horizon - h),
                        (x + w * 0.5, horizon - h * 0.35),
                        (x + w, horizon + 4),
                        (x - w, horizon + 4),
                        (x - w * 0.5, horizon - h * 0.35),
                    ]
                )
            ],
            mix(far, SUNLIGHT, 0.5),
            far,
            toward=(-0.4, -0.9),
        )
    water = jitter(rng, (118, 178, 206), 8)
    canvas.fill([rounded(-9, horizon, 137, 137, 1)], mix(water, SUNLIGHT, 0.5), water, toward=UP, lies=True)
    for _ in range(2):
        x, y = rng.uniform(10, 118), horizon + rng.uniform(6, 16)
        canvas.fill([ellipse(x, y, 16, 1.8)], SUNLIGHT, SUNLIGHT, opacity=0.45)
    shore = horizon + rng.uniform(24, 32)
    land(canvas, rng, shore, 4, 0.7, jitter(rng, (164, 196, 128), 8), 0.14)
    return Ground(shore, (horizon + 10, shore - 3))


def night(canvas: Canvas, rng: Rng) -> Ground:
    horizon = rng.uniform(72, 86)
    canvas.gradient((0, jitter(rng, (34, 42, 92), 5)), (horizon, jitter(rng, (96, 104, 162), 8)))
    sun(canvas, rng, rng.uniform(16, 32), rng.uniform(8, 11), (255, 244, 208), 0.4)
    for _ in range(int(rng.integers(5, 10))):
        x, y, r = rng.uniform(4, 124), rng.uniform(4, horizon - 18), rng.uniform(1.4, 2.0)
        canvas.fill([ellipse(x, y, r, r)], SUNLIGHT, SUNLIGHT, opacity=0.85)
    land(canvas, rng, horizon - 4, 7, 0.9, jitter(rng, (84, 98, 150), 5), 0.2)
    land(canvas, rng, horizon + 7, 5, 0.7, jitter(rng, (76, 104, 136), 5), 0.2)
    return Ground(horizon + 8)


def forest(canvas: Canvas, rng: Rng) -> Ground:
    horizon = rng.uniform(70, 80)
    canvas.gradient((0, jitter(rng, (178, 208, 184), 8)), (horizon, jitter(rng, (238, 240, 208), 6)))
    canvas.glow(rng.uniform(30, 98), rng.uniform(30, 55), 44, (255, 248, 214), 0.7)
    firs(canvas, rng, horizon + 4, jitter(rng, (162, 196, 172), 6), 5, 62)
    firs(canvas, rng, horizon + 6, jitter(rng, (118, 164, 140), 8), 4, 48)
    land(canvas, rng, horizon + 3, 3, 0.8, jitter(rng, (160, 188, 128), 8), 0.1)
    for x in (rng.uniform(-6, 8), rng.uniform(120, 134)):
        canvas.fill(
            [smooth([(x - 5, -6), (x + 5, -6), (x + 5, 80), (x + 9, 104), (x - 9, 104), (x - 5, 80)])],
            (166, 138, 112),
            (122, 100, 92),
            toward=(-1, 0),
        )
    leaves = [ellipse(x, rng.uniform(-6, 2), 20, 14) for x in rng.uniform(-4, 132, 7)]
    canvas.fill(leaves, (132, 176, 136), (96, 146, 118), foot=104)
    return Ground(horizon + 7)


def sunset(canvas: Canvas, rng: Rng) -> Ground:
    horizon = rng.uniform(66, 80)
    canvas.gradient(
        (0, jitter(rng, (122, 104, 170), 8)),
        (horizon * 0.5, jitter(rng, (240, 150, 140), 8)),
        (horizon, jitter(rng, (255, 218, 150), 6)),
    )
    sun(canvas, rng, horizon - rng.uniform(2, 12), rng.uniform(12, 16), (255, 240, 176), 0.6)
    clouds(canvas, rng, (255, 206, 186), horizon * 0.9, 3)
    land(canvas, rng, horizon - 2, 7, 0.9, jitter(rng, (214, 138, 142), 6), 0.05)
    land(canvas, rng, horizon + 8, 5, 0.7, jitter(rng, (186, 128, 140), 6), 0.2)
    land(canvas, rng, horizon + 24, 4, 0.6, jitter(rng, (170, 120, 140), 6), 0.2)
    return Ground(horizon + 11)


@dataclass(frozen=True)
class Backdrop:
    """A function that paints a background and returns its ground, and the noun for it."""

    paint: Callable[[Canvas, Rng], Ground]
    noun: str
    dark: bool = False


BACKDROPS: dict[str, Backdrop] = {
    "on a beach": Backdrop(beach, "a beach"),
    "in a meadow": Backdrop(meadow, "a meadow"),
    "in the snow": Backdrop(snow, "a snowy field"),
    "in the desert": Backdrop(desert, "a desert"),
    "by a lake": Backdrop(lake, "a lake"),
    "under a night sky": Backdrop(night, "a night sky", dark=True),
    "in a forest": Backdrop(forest, "a forest"),
    "at sunset": Backdrop(sunset, "a sunset"),
}
