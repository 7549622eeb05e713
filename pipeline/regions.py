"""Where and when each entry of a conditioning applies: areas, masks, strengths and ranges of noise levels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..samplers import NoiseSchedule
from .control import AppliedControl
from .images import fit_batch
from .levels import ALL, Levels, levels
from .masks import fading
from .types import Conditioning, Options

# ComfyUI's own keys: area is (height, width, y, x) in latent pixels, or ("percentage", ...) in shares of the latent
KEYS = frozenset({"area", "strength", "mask", "mask_strength", "set_area_to_bounds", "start_percent", "end_percent"})
FADE = 8  # latent pixels over which an area fades out at edges inside the latent
SMALLEST = 8  # latent pixels: the least side of an area around a mask
NOTHING = 1e-37  # the weight of no entry at all, so that 0 / 0 is 0


@dataclass(frozen=True)
class Area:
    """A rectangle of the latent, in latent pixels."""

    height: int
    width: int
    y: int
    x: int

    def cut(self, whole: Tensor) -> Tensor:
        """Return a view of the rectangle of `whole` [..., h, w]."""
        return whole[..., self.y : self.y + self.height, self.x : self.x + self.width]

    def contains(self, other: Area) -> bool:
        rows = self.y <= other.y and other.y + other.height <= self.y + self.height
        return rows and self.x <= other.x and other.x + other.width <= self.x + self.width


@dataclass(frozen=True, eq=False)
class Region:
    """The part of the latent (None: the whole), the weight in it and the noise levels at which an entry applies."""

    area: Area | None = None
    weight: Tensor | float = 1.0  # [1 or B, 1, h, w], or one number for every pixel
    levels: Levels = ALL

    def cut(self, whole: Tensor) -> Tensor:
        """Return a view of the region's part of `whole` [..., h, w]."""
        return whole if self.area is None else self.area.cut(whole)


@dataclass(frozen=True)
class Placed:
    """An entry of a conditioning with its region."""

    context: Tensor
    options: Options
    region: Region
    control: AppliedControl | None = None


def place(sides: Sequence[Conditioning], schedule: NoiseSchedule, latent: Tensor) -> list[list[Placed]]:
    """Find the region of every entry of the two sides on a latent [B, C, h, w].

    An area needs a counterpart to be guided against: where the other side has none, its smallest entry around the
    area is evaluated there as well. ValueError where an area lies outside the latent.
    """
    placed = [
        [
            Placed(context, options, region_of(options, schedule, latent), options.get("control"))
            for context, options in side
        ]
        for side in sides
    ]
    for own, other in zip(placed, reversed(placed), strict=True):
        for entry in own:
            around = None if entry.region.area is None else _smallest(entry.region.area, other)
            if around is not None and around.region.area != entry.region.area:
                other.append(replace(around, region=entry.region, control=entry.control))
    _share_controls(*placed)
    return placed


def _share_controls(positive: list[Placed], negative: list[Placed]) -> None:
    """Give the negative side the ControlNets that ask for it, unless it has one; areas have their own."""
    whole = [i for i, entry in enumerate(negative) if entry.region.area is None]
    if not whole or any(negative[i].control for i in whole):
        return
    asking = [
        entry for entry in positive if entry.region.area is None and entry.options.get("control_apply_to_uncond")
    ]
    for number, entry in enumerate(asking):
        i = whole[number % len(whole)]
        negative[i] = replace(negative[i], control=entry.control)


def _smallest(area: Area, entries: Iterable[Placed]) -> Placed | None:
    """The entry with the smallest area around this one; an entry for the whole latent if none has."""
    around = [entry for entry in entries if entry.region.area is None or entry.region.area.contains(area)]
    return min(around, key=lambda entry: _size(entry.region.area), default=None)


def _size(area: Area | None) -> float:
    return math.inf if area is None else area.height * area.width


def region_of(options: Options, schedule: NoiseSchedule, latent: Tensor) -> Region:
    """Return the region that an entry's options describe on a latent [B, C, h, w]."""
    mask = options.get("mask")
    if mask is not None:
        mask = mask.to(latent).reshape(-1, 1, *mask.shape[-2:])
        mask = fit_batch(F.interpolate(mask, size=latent.shape[-2:], mode="bilinear"), len(latent))
    if mask is not None and options.get("set_area_to_bounds"):
        area = _bounds(mask, latent)
    else:
        area = _area(options.get("area"), latent)
    weight: Tensor | float = float(options.get("strength", 1.0))
    if mask is not None:
        shown = mask if area is None else area.cut(mask)
        weight = weight * float(options.get("mask_strength", 1.0)) * shown
    elif area is not None:
        weight = weight * _faded(area, latent)
    return Region(
        area,
        weight,
        levels(schedule, options.get("start_percent", 0.0), options.get("end_percent", 1.0)),
    )


def _area(given: Sequence[Any] | None, latent: Tensor) -> Area | None:
    """Read ComfyUI's area and cut it to the latent."""
    if given is None:
        return None
    sizes = latent.shape[-2:]
    if given[0] == "percentage":
        shares = [round(share * length) for share, length in zip(given[1:], (*sizes, *sizes), strict=True)]
        given = [max(1, shares[0]), max(1, shares[1]), *shares[2:]]
    height, width, y, x = given
    if y >= sizes[0] or x >= sizes[1]:
        raise ValueError(
            f"an area of the conditioning begins at x {8 * x}, y {8 * y}, outside the image of {8 * sizes[1]} x "
            f"{8 * sizes[0]}; move it inside"
        )
    return Area(min(height, sizes[0] - y), min(width, sizes[1] - x), y, x)


def _bounds(mask: Tensor, latent: Tensor) -> Area | None:
    """The rectangle around what the mask [B, 1, h, w] sets; a corner if it sets nothing."""
    spots = mask.abs().amax((0, 1)).nonzero()
    if len(spots) == 0:
        return _area((SMALLEST, SMALLEST, 0, 0), latent)
    (y, x), (bottom, right) = spots.amin(0).tolist(), spots.amax(0).tolist()
    return _area((max(SMALLEST, bottom - y + 1), max(SMALLEST, right - x + 1), y, x), latent)


def _faded(area: Area, latent: Tensor) -> Tensor:
    """Weights [1, 1, h, w] of an area that fall off linearly at its edges inside the latent, never to 0."""
    rows, columns = (
        fading(length, min(FADE, length // 4), at_start=start > 0, at_end=start + length < whole)
        for start, length, whole in zip((area.y, area.x), (area.height, area.width), latent.shape[-2:], strict=True)
    )
    return (rows[:, None] * columns).to(latent)[None, None]


def combine(predictions: Sequence[tuple[Tensor, Region]], like: Tensor) -> Tensor:
    """sum(weight * x0) / sum(weight) at every pixel of `like` [B, C, h, w]; 0 where no entry applies."""
    if len(predictions) == 1:
        x0, region = predictions[0]
        if region.area is None and isinstance(region.weight, float) and region.weight > 0:
            return x0
    total, weights = torch.zeros_like(like), torch.full_like(like[:, :1], NOTHING)
    for x0, region in predictions:
        region.cut(total).add_(x0 * region.weight)
        region.cut(weights).add_(region.weight)
    return total / weights
