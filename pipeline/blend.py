"""Blend a generated image over the original, and match their colors."""

from __future__ import annotations

import torch
from torch import Tensor

from .images import fit, fit_batch, moments, normalize
from .masks import normalize as normalize_mask
from .masks import snap
from .membrane import membrane
from .notices import notice

BLENDS = ("membrane", "feather", "none")
MAX_GAIN = 1.5  # of a color match: a flat border must not amplify what it surrounds
MEAN_BITS = 12  # to which a mean color is matched: 16 times as fine as an 8-bit file


def match_color(generated: Tensor, original: Tensor, kept: Tensor) -> Tensor:
    """Give `generated` the mean and deviation of `original` where kept [B, H, W] is set, per image and channel.

    Only kept pixels are measured: there both show the same thing, and a difference is the model's color drift.
    """
    mean, std = moments(generated, kept[..., None])
    target_mean, target_std = moments(original, kept[..., None])
    gain = (target_std / std.clamp(min=1e-6)).clamp(1 / MAX_GAIN, MAX_GAIN)
    matched = ((generated - mean) * gain + target_mean).clamp(0, 1)
    return torch.where(kept.any(2).any(1).view(-1, 1, 1, 1), matched, generated)


def match_mean(image: Tensor, reference: Tensor) -> Tensor:
    """Shift each channel of [B, H, W, C] so that, once cut to 0..1, its mean is that of `reference`, of any size.

    What is cut off moves the mean again, so the shift is searched for: the mean only rises with it.
    """
    image, reference = normalize(image), fit_batch(normalize(reference), len(image))
    target = reference.mean((1, 2), keepdim=True)
    low, high = torch.full_like(target, -1.0), torch.full_like(target, 1.0)
    for _ in range(MEAN_BITS + 1):
        shift = (low + high) / 2
        dark = (image + shift).clamp(0, 1).mean((1, 2), keepdim=True) < target
        low, high = torch.where(dark, shift, low), torch.where(dark, high, shift)
    return (image + (low + high) / 2).clamp(0, 1)


def composite(
    original: Tensor, generated: Tensor, mask: Tensor, *, color_match: bool, blend: str = "membrane"
) -> Tensor:
    """Put `generated` over `original` [B, H, W, C] where a mask is above 0; elsewhere the original's bits are kept.

    `generated` and the mask are resized to the original's size. blend: "feather" fades through the mask's values;
    "membrane" does that too, and first corrects the generated colors by a smooth field so that they meet the
    original's at the mask's edge; "none" pastes.
    """
    if blend not in BLENDS:
        raise ValueError(f"blend is {blend!r}; choose one of {', '.join(BLENDS)}")
    original = normalize(original)
    size = (original.shape[1], original.shape[2])
    generated, mask = fit(normalize(generated), size), snap(normalize_mask(mask, size))
    count = max(x.shape[0] for x in (original, generated, mask))
    original, generated, mask = (fit_batch(x, count) for x in (original, generated, mask))
    hole = mask > 0
    if not hole.any():
        notice("the mask is empty, so the image is the original; connect the blend_mask of SD2 Mask Preprocess")
    elif color_match and hole.all():
        notice("color_match has no effect, because the mask keeps no pixel to measure; set it to off")
    if color_match:
        generated = match_color(generated, original, ~hole)
    if blend == "membrane" and hole.any():
        rows, columns = _span(hole.any(2)), _span(hole.any(1))
        before, after = original[:, rows, columns], generated[:, rows, columns]
        generated = generated.clone()
        generated[:, rows, columns] = (after + membrane(before - after, hole[:, rows, columns])).clamp(0, 1)
    if blend != "none":
        generated = original.lerp(generated, mask[..., None])
    return torch.where(hole[..., None], generated, original)


def _span(used: Tensor) -> slice:
    """Where any of [B, length] is set, and a pixel more at either end."""
    index = used.any(0).nonzero()[:, 0]
    return slice(max(0, int(index[0]) - 1), int(index[-1]) + 2)
