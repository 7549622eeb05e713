"""Paint anti-aliased shapes in numpy: filled outlines with soft shading, in a frame of 128 units at any pixel size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Array = NDArray[np.float32]
Color = tuple[float, float, float]
Point = tuple[float, float]
Box = tuple[int, int, int, int]

FRAME = 128.0
OVERSAMPLE = 4
LIGHT = (-0.6, -0.8)
SUNLIGHT: Color = (255, 246, 222)
DUSK: Color = (44, 40, 92)
SKYLINE = 0.1  # inverse depth where the ground ends, so that hills stand out from the sky
BULGE = 0.06  # inverse depth by which the middle of an object is nearer than its edge


def mix(a: Color, b: Color, amount: float) -> Color:
    """Return the color `amount` (0..1) of the way from `a` to `b`."""
    return (a[0] + (b[0] - a[0]) * amount, a[1] + (b[1] - a[1]) * amount, a[2] + (b[2] - a[2]) * amount)


def shaded(color: Color, amount: float) -> Color:
    """Darken `color` without graying it: warm hues turn deeper and redder, cool ones bluer."""
    warmth = min(1.0, max(0.0, (color[0] - color[2]) / 100))
    r, g, b = mix((0.6, 0.62, 0.74), (0.8, 0.62, 0.58), warmth)
    return mix(color, (color[0] * r, color[1] * g, color[2] * b), amount)


def jitter(rng: np.random.Generator, color: Color, spread: float) -> Color:
    """Move each channel of `color` by up to `spread` levels, and all of them together by up to as much."""
    shared = rng.uniform(-spread, spread)
    r, g, b = np.clip(np.asarray(color) + shared + rng.uniform(-spread, spread, 3), 0, 255).tolist()
    return (r, g, b)


def smooth(points: Sequence[Point], steps: int = 7) -> Array:
    """Return the closed Catmull-Rom curve through `points`, as an outline [len(points) * steps, 2]."""
    p1 = np.asarray(points, np.float32)[:, None]
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    t = np.linspace(0, 1, steps, endpoint=False, dtype=np.float32)[None, :, None]
    curve = 2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * (p1 - p2) + p3 - p0) * t**3
    outline: Array = (0.5 * curve).reshape(-1, 2)
    return outline


def ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> Array:
    """Return the outline of an ellipse, or of the segment between two angles in degrees, [36, 2]."""
    angle = np.radians(np.linspace(start, stop, 36, dtype=np.float32))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], 1)


def rounded(x0: float, y0: float, x1: float, y1: float, radius: float) -> Array:
    """Return the outline of a rectangle with round corners, [36, 2]."""
    corner = ellipse(0, 0, radius, radius)
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2], np.float32)
    half = np.array([abs(x1 - x0) / 2 - radius, abs(y1 - y0) / 2 - radius], np.float32)
    return middle + corner + np.where(corner >= 0, half, -half)


def ribbon(points: Sequence[Point], width: float) -> Array:
    """Return the outline of a soft line of even `width` through `points`."""
    line = np.asarray(points, np.float32)
    along = np.gradient(line, axis=0)
    side = np.stack([-along[:, 1], along[:, 0]], 1) * (width / 2 / np.linalg.norm(along, axis=1, keepdims=True))
    return smooth([*map(tuple, line + side), *map(tuple, (line - side)[::-1])], 5)


class Canvas:
    """A square image painted back to front: premultiplied `pixels` [S, S, 3], 0..255, and `coverage` [S, S, 1].

    Once it has a sky it also has inverse depth: `nearness` [S, S, 1], 0 in the sky and 1 for the ground at the lower
    edge.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.scale = size / FRAME
        self.pixels: Array = np.zeros((size, size, 3), np.float32)
        self.coverage: Array = np.zeros((size, size, 1), np.float32)
        self.nearness: Array = np.zeros((size, size, 1), np.float32)
        self.horizon: float | None = None
        axis = (np.arange(size, dtype=np.float32) + 0.5) / self.scale
        self.x, self.y = axis[None, :, None], axis[:, None, None]

    def gradient(self, *stops: tuple[float, Color]) -> None:
        """Cover the canvas with a sky blended from top to bottom.

        Each stop is (height in 0..128, color); the last one is the horizon.
        """
        heights = [height for height, _ in stops]
        rows = [np.interp(self.y[:, 0, 0], heights, [color[c] for _, color in stops]) for c in range(3)]
        self.pixels[:] = np.stack(rows, 1)[:, None, :]
        self.coverage[:] = 1
        self.horizon = heights[-1]

    def inverse_depth(self, y: float | Array) -> Array:
        """Return the inverse depth of the ground at height `y`, proportional to its distance below the horizon."""
        if self.horizon is None:
            raise ValueError("the canvas has no horizon; paint a sky with `gradient` first")
        below = (np.asarray(y, np.float32) - self.horizon) / (FRAME - self.horizon)
        depth: Array = SKYLINE + (1 - SKYLINE) * np.clip(below, 0, 1)
        return depth

    def glow(self, cx: float, cy: float, radius: float, color: Color, strength: float) -> None:
        """Blend a soft round light of `strength` 0..1 over the canvas."""
        distance = (self.x - cx) ** 2 + (self.y - cy) ** 2
        self.pixels += strength * np.exp(-distance / radius**2) * (np.asarray(color, np.float32) - self.pixels)

    def fill(
        self,
        outlines: Sequence[Array],
        lit: Color,
        shade: Color,
        *,
        toward: Point = LIGHT,
        opacity: float = 1.0,
        blur: float = 0.0,
        lies: bool = False,
        foot: float | None = None,
    ) -> None:
        """Paint the union of `outlines`, from `lit` on the side that faces `toward` to `shade` on the other.

        The shape lies on the ground, or is as far away as the ground at its `foot`, by default its lowest point; a
        foot above the horizon places it in the sky. Transparent shapes leave the depth unchanged.
        """
        corners = np.concatenate(outlines)
        low, high = corners.min(0), corners.max(0)
        pad = 1 + 3 * blur * self.scale
        x0, y0 = (int(v) for v in np.clip(np.floor(low * self.scale - pad), 0, self.size))
        x1, y1 = (int(v) for v in np.clip(np.ceil(high * self.scale + pad), 0, self.size))
        if x1 <= x0 or y1 <= y0:
            return
        alpha = opacity * self._mask(outlines, (x0, y0, x1, y1), blur)
        middle, reach = (low + high) / 2, (high - low) / 2 * np.abs(toward)
        lean = (self.x[:, x0:x1] - middle[0]) * toward[0] + (self.y[y0:y1] - middle[1]) * toward[1]
        light = np.clip(0.5 + 0.5 * lean / max(1e-3, float(reach.sum())), 0, 1)
        bright, dark = np.asarray(lit, np.float32), np.asarray(shade, np.float32)
        self._over((x0, y0, x1, y1), alpha, alpha * (dark + light * (bright - dark)))
        if opacity == 1 and self.horizon is not None:
            stands = high[1] if foot is None else foot
            near = self.inverse_depth(self.y[y0:y1] if lies else stands) * (lies or stands > self.horizon)
            self.nearness[y0:y1, x0:x1] += alpha * (near - self.nearness[y0:y1, x0:x1])

    def paste(self, layer: Canvas, box: Box, foot: float) -> None:
        """Composite another canvas of the same size over this one, inside `box` only.

        It is as near as the ground at height `foot`, and its middle bulges toward the viewer.
        """
        x0, y0, x1, y1 = box
        cover = layer.coverage[y0:y1, x0:x1]
        self._over(box, cover, layer.pixels[y0:y1, x0:x1])
        across, down = _axes(box)
        near = self.inverse_depth(foot) + BULGE * np.sqrt(np.clip(1 - (across**2 + down**2) / 2, 0, 1))
        self.nearness[y0:y1, x0:x1] += cover * (near - self.nearness[y0:y1, x0:x1])

    def box(self) -> Box:
        """Return the smallest (x0, y0, x1, y1) in pixels around all that is at least half covered."""
        solid = self.coverage[:, :, 0] > 0.5
        rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    def round_off(self, box: Box) -> None:
        """Shade the contents of `box` as a solid: lighter at the upper left, darker at the lower right."""
        x0, y0, x1, y1 = box
        across, down = _axes(box)
        light = 0.2 * np.exp(-((across + 0.4) ** 2 + (down + 0.5) ** 2) / 0.4)
        dark = 0.16 * np.clip((across + down) / 2, 0, 1)
        plane, cover = self.pixels[y0:y1, x0:x1], self.coverage[y0:y1, x0:x1]
        plane += light * (cover * np.asarray(SUNLIGHT, np.float32) - plane) - dark * plane

    def halo(self, layer: Canvas, box: Box, color: Color, offset: Point, blur: float, opacity: float) -> None:
        """Paint the blurred silhouette of `layer`, moved by `offset`: the shadow of a paper cut-out, or its glow."""
        pad = math.ceil((2.5 * blur + max(map(abs, offset))) * self.scale)
        x0, y0 = max(0, box[0] - pad), max(0, box[1] - pad)
        x1, y1 = min(self.size, box[2] + pad), min(self.size, box[3] + pad)
        silhouette = Image.fromarray((layer.coverage[y0:y1, x0:x1, 0] * 255).astype(np.uint8))
        blurred = silhouette.filter(ImageFilter.GaussianBlur(blur * self.scale))
        moved = blurred.transform(
            blurred.size, Image.Transform.AFFINE, (1, 0, -offset[0] * self.scale, 0, 1, -offset[1] * self.scale)
        )
        alpha = np.asarray(moved, np.float32)[:, :, None] * (opacity / 255)
        self._over((x0, y0, x1, y1), alpha, alpha * np.asarray(color, np.float32))

    def image(self) -> NDArray[np.uint8]:
        """Return the image as uint8 [S, S, 3]."""
        rounded_pixels: NDArray[np.uint8] = np.clip(self.pixels + 0.5, 0, 255).astype(np.uint8)
        return rounded_pixels

    def _mask(self, outlines: Sequence[Array], box: Box, blur: float) -> Array:
        x0, y0, x1, y1 = box
        mask = Image.new("L", ((x1 - x0) * OVERSAMPLE, (y1 - y0) * OVERSAMPLE))
        draw = ImageDraw.Draw(mask)
        for outline in outlines:
            draw.polygon(((outline * self.scale - (x0, y0)) * OVERSAMPLE).ravel().tolist(), fill=255)
        mask = mask.reduce(OVERSAMPLE)
        if blur:
            mask = mask.filter(ImageFilter.GaussianBlur(blur * self.scale))
        covered: Array = np.asarray(mask, np.float32)[:, :, None] / np.float32(255)
        return covered

    def _over(self, box: Box, alpha: Array, premultiplied: Array) -> None:
        x0, y0, x1, y1 = box
        for plane, paint in ((self.pixels, premultiplied), (self.coverage, alpha)):
            plane[y0:y1, x0:x1] *= 1 - alpha
            plane[y0:y1, x0:x1] += paint


def _axes(box: Box) -> tuple[Array, Array]:
    """Return coordinates -1..1 across the box, [1, W, 1], and down it, [H, 1, 1]."""
    x0, y0, x1, y1 = box
    across, down = np.linspace(-1, 1, x1 - x0, dtype=np.float32), np.linspace(-1, 1, y1 - y0, dtype=np.float32)
    return across[None, :, None], down[:, None, None]


class Pen:
    """Draws one object in units of its height: x to the right of its middle, y up from its foot."""

    def __init__(
        self, canvas: Canvas, foot: Point, height: float, body: Color, *, mirror: bool = False, tilt: float = 0.0
    ) -> None:
        self.canvas = canvas
        self.body = body
        self.pale = mix(body, SUNLIGHT, 0.3)
        self.deep = shaded(body, 0.45) if luminance(body) > 70 else mix(body, SUNLIGHT, 0.16)
        flip, cos, sin = (-1 if mirror else 1), math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
        self._matrix = height * np.array([[flip * cos, flip * sin], [sin, -cos]], np.float32)
        self._origin = np.array([foot[0], foot[1] - height / 2], np.float32)

    def shape(
        self,
        *outlines: Sequence[Point] | Array,
        color: Color | None = None,
        opacity: float = 1.0,
        depth: float = 1.0,
    ) -> None:
        """Fill the union of `outlines`, by default in the object's color; `depth` scales the shading."""
        base = color or self.body
        placed = [(np.asarray(o, np.float32) - (0, 0.5)) @ self._matrix.T + self._origin for o in outlines]
        lit, shade = mix(base, SUNLIGHT, 0.16 * depth), shaded(base, 0.38 * depth)
        self.canvas.fill([p.astype(np.float32) for p in placed], lit, shade, opacity=opacity)

    def blob(self, *points: Point, color: Color | None = None, opacity: float = 1.0, depth: float = 1.0) -> None:
        """Fill the smooth closed curve through `points`."""
        self.shape(smooth(points), color=color, opacity=opacity, depth=depth)


def luminance(color: Color) -> float:
    """Rec. 601 luma of an RGB color, 0..255."""
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
