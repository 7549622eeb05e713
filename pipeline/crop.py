"""Crop the surroundings of a hole to the size a model was trained at, and stitch the result back.

A model paints best at its own size, and a crop costs no more than the hole is worth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .blend import composite
from .images import fit_batch, normalize, resample
from .masks import normalize as normalize_mask
from .masks import snap
from .notices import notice

MOST_ENLARGED = 4  # times: a dot is shown with its surroundings, not as a large blot
EIGHT_NEIGHBORS = np.ones((3, 3))  # pixels that touch at a corner are one hole


@dataclass(frozen=True)
class Box:
    """A window of an image, in pixels."""

    x: int
    y: int
    width: int
    height: int

    @property
    def rows(self) -> slice:
        return slice(self.y, self.y + self.height)

    @property
    def columns(self) -> slice:
        return slice(self.x, self.x + self.width)

    def of(self, image: Tensor) -> Tensor:
        """A view of [H, W, ...]."""
        return image[self.rows, self.columns]


@dataclass(frozen=True, kw_only=True)
class Window:
    """How large a window to cut around a hole, and how many pixels to make of it."""

    size: tuple[int, int] = (512, 512)  # (H, W) of the crop
    multiple: int = 8  # of which its sides are multiples
    factor: float = 1.2  # times the hole's bounding box
    margin: int = 0  # pixels on each side of that


@dataclass(frozen=True)
class Stitch:
    """Where crops belong: the images [B, H, W, 3] they were cut from, and a window and a mask [H, W] for each crop."""

    images: Tensor
    boxes: tuple[Box, ...]
    masks: Tensor  # [B, H, W], in 0..1: what may change

    def repeated(self, count: int) -> Stitch:
        """Return a record for `count` crops where there were fewer: several results for one crop."""
        times = -(-count // len(self.boxes))
        return Stitch(self.images, (self.boxes * times)[:count], fit_batch(self.masks, count))


@dataclass(frozen=True)
class Crop:
    """Crops of one size: images [B, h, w, 3], masks [B, h, w] with 1 where to repaint, and where they belong."""

    image: Tensor
    mask: Tensor
    stitch: Stitch


def crop(
    image: Tensor,
    mask: Tensor,
    window: Window,
    *,
    context_mask: Tensor | None = None,
    blend_mask: Tensor | None = None,
) -> list[Crop]:
    """Cut a window around the hole of each image and resize it; a list of one.

    image [B, H, W, C] and mask [B, H, W] of any size; one of them may be one for many of the other. The window also
    holds the context mask, and is enlarged at most `MOST_ENLARGED` times. It grows to the aspect of `window.size` and
    lies inside the image. Where the image is too narrow for that aspect, the crop keeps the window's aspect and number
    of pixels. All windows of a batch have one size. An empty mask gives the whole image.

    blend_mask: what may change when stitched, if not the mask.
    """
    image = normalize(image)
    where, blended, seen = _masks(image, mask, blend_mask, context_mask)
    if not where.any():
        notice("the mask is empty, so the crop has nothing to repaint; draw one, or load a file with transparency")
    boxes = windows(where if seen is where else torch.maximum(where, seen), window)
    size = _size(boxes[0], window)
    picked = [box.of(image[index % len(image)]) for index, box in enumerate(boxes)]
    marked = [box.of(where[index]) for index, box in enumerate(boxes)]
    return [
        Crop(
            image=resample(torch.stack(picked), size),
            mask=normalize_mask(torch.stack(marked), size),
            stitch=Stitch(image, boxes, blended),
        )
    ]


def crop_one_by_one(
    image: Tensor,
    mask: Tensor,
    window: Window,
    *,
    context_mask: Tensor | None = None,
    blend_mask: Tensor | None = None,
) -> list[Crop]:
    """Like `crop`, with a crop for each connected area of each mask; each gets what of the blend mask is nearest."""
    image = normalize(image)
    crops: list[Crop] = []
    for index, (where, blended, seen) in enumerate(zip(*_masks(image, mask, blend_mask, context_mask), strict=True)):
        one = image[index % len(image)][None]  # its holes' stitches share it
        context = None if context_mask is None else seen[None]
        for hole, may_change in holes(where, blended):
            crops += crop(one, hole[None], window, context_mask=context, blend_mask=may_change[None])
    return crops or crop(image, mask, window, context_mask=context_mask, blend_mask=blend_mask)


def _masks(
    image: Tensor, mask: Tensor, blend_mask: Tensor | None, context_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The mask, the blend mask and the context mask (else the mask itself), each [B, H, W] of the image's size."""
    full = (image.shape[1], image.shape[2])
    where = snap(normalize_mask(mask, full))
    blended, seen = (where if one is None else normalize_mask(one, full) for one in (blend_mask, context_mask))
    count = max(len(image), len(where), len(blended), len(seen))
    return fit_batch(where, count), fit_batch(blended, count), fit_batch(seen, count)


def windows(mask: Tensor, window: Window) -> tuple[Box, ...]:
    """Return a window around what each mask [B, H, W] marks, all of one size."""
    height, width = mask.shape[-2:]
    aspect = window.size[1] / window.size[0]
    whole = Box(0, 0, width, height)
    marked = [_bounds(one) for one in mask]
    drawn = [box for box in marked if box is not None] or [whole]  # an empty mask among others enlarges no window
    least_height, least_width = (side / MOST_ENLARGED for side in window.size)

    def needed(length: int, least: float, whole: int) -> int:
        return min(whole, math.ceil(max(length * window.factor, least)) + 2 * window.margin)

    needed_width = max(needed(box.width, least_width, width) for box in drawn)
    needed_height = max(needed(box.height, least_height, height) for box in drawn)
    wide = min(width, max(needed_width, round(needed_height * aspect)))
    high = min(height, max(needed_height, round(needed_width / aspect)))

    def around(box: Box) -> Box:
        x = _start(box.x + box.width / 2, wide, width)
        return Box(x, _start(box.y + box.height / 2, high, height), wide, high)

    return tuple(around(box or whole) for box in marked)


def holes(mask: Tensor, blend_mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Split a mask [H, W] into its connected areas: each alone, and what of the blend mask is nearest to it."""
    from scipy import ndimage  # a fifth of a second to import

    marked = mask.cpu().numpy() > 0
    labels, count = ndimage.label(marked, EIGHT_NEIGHBORS)
    if count == 0:
        return []
    rows, columns = ndimage.distance_transform_edt(~marked, return_distances=False, return_indices=True)
    own, nearest = (torch.from_numpy(numbers).to(mask.device) for numbers in (labels, labels[rows, columns]))
    return [(mask * (own == number), blend_mask * (nearest == number)) for number in range(1, count + 1)]


def _bounds(mask: Tensor) -> Box | None:
    """Return the bounding box of what is marked in [H, W], if anything is."""
    rows, columns = (mask.amax(dim).nonzero().flatten() for dim in (1, 0))
    if len(rows) == 0:
        return None
    top, left = int(rows[0]), int(columns[0])
    return Box(left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top)


def _start(middle: float, length: int, whole: int) -> int:
    """Return where a window of this length around `middle` starts, moved inside 0..whole."""
    return max(0, min(round(middle - length / 2), whole - length))


def _size(box: Box, window: Window) -> tuple[int, int]:
    """Return the size (H, W) of the crops: the window's, or as many pixels in the box's aspect, in multiples."""
    height, width = window.size
    if abs(box.width - box.height * width / height) > 1:  # more than a pixel off
        scale = math.sqrt(width * height / (box.width * box.height))
        height, width = round(box.height * scale), round(box.width * scale)
    height, width = (max(1, round(length / window.multiple)) * window.multiple for length in (height, width))
    return height, width


def stitch_all(
    records: Sequence[Stitch], crops: Sequence[Tensor], *, color_match: bool, blend: str = "membrane"
) -> list[Tensor]:
    """Composite repainted crops, each [B, h, w, C] of any size, into the images they were cut from: [B, H, W, 3] each.

    blend: how, one of `BLENDS`.
    Crops of one image are stitched into it in turn. Pixels where the masks are 0 are the image's own, bit for bit.
    """
    results: dict[int, Tensor] = {}
    for record, crop_ in zip(records, crops, strict=True):
        key = record.images.data_ptr()  # views of one image are one image
        record = record.repeated(max(len(crop_), len(record.boxes)))
        if key not in results:
            results[key] = fit_batch(record.images, len(record.boxes)).clone()
        _paste(results[key], record, crop_, color_match=color_match, blend=blend)
    return list(results.values())


def _paste(images: Tensor, record: Stitch, crops: Tensor, *, color_match: bool, blend: str) -> None:
    """Composite repainted crops into `images` [B, H, W, 3] in place."""
    crops = fit_batch(normalize(crops), len(record.boxes)).to(images)
    for index, box in enumerate(record.boxes):
        under = box.of(images[index])[None]
        resized = resample(crops[index : index + 1], (box.height, box.width))
        mask = box.of(record.masks[index])[None].to(images)
        under.copy_(composite(under, resized, mask, color_match=color_match, blend=blend))
