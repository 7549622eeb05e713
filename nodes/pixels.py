"""Pictures: float [B, H, W, 3] in 0..1."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .masks import fit_batch

MAX_GAIN = 1.5  # of a colour match: a flat border must not amplify what it surrounds
MEAN_BITS = 12  # to which a mean colour is matched: 16 times as fine as a file of 8 bits


def normalise(image: Tensor) -> Tensor:
    """IMAGE of any dtype, with or without alpha -> float32 [B, H, W, 3]."""
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(f"an IMAGE is [batch, height, width, 3], this one is {list(image.shape)}; decode it first")
    return image[..., :3].float().expand(-1, -1, -1, 3)


def ceil_to(length: int, multiple: int) -> int:
    """The smallest multiple that holds `length`."""
    return -(-length // multiple) * multiple


def pad(x: Tensor, multiple: int) -> Tensor:
    """Reflect [B, H, W, ...] at its bottom and right edges until H and W are multiples; `x[:, :H, :W]` undoes it."""
    rows, columns = (_reflected(length, ceil_to(length, multiple)).to(x.device) for length in x.shape[1:3])
    return x[:, rows][:, :, columns]


def _reflected(length: int, padded: int) -> Tensor:
    """Indices 0 1 2 1 0 1 2... for length 3: F.pad refuses a border longer than the picture."""
    period = max(2 * (length - 1), 1)
    index = torch.arange(padded) % period
    return torch.minimum(index, period - index)


def fit(image: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, H, W, C] at `size`: resized, or only cut if it is larger by a padding to a multiple of 8."""
    height, width = size
    if image.shape[1:3] == (ceil_to(height, 8), ceil_to(width, 8)):
        return image[:, :height, :width]
    x = image.movedim(-1, 1)  # BHWC -> BCHW
    x = F.interpolate(x, size=size, mode="bicubic", antialias=True)
    return x.clamp(0, 1).movedim(1, -1)


def fill_grey(image: Tensor, hole: Tensor) -> Tensor:
    """Mid-grey, the zero of -1..1, where hole [B, H, W] is set: what the inpainting models are trained to see."""
    return image.masked_fill(hole[..., None], 0.5)


def fill_noise(image: Tensor, hole: Tensor) -> Tensor:
    """Normal noise with the mean and deviation of what is kept, always the same numbers."""
    kept = ~hole[..., None]
    mean, std = _moments(image, kept)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image.device)
    return torch.where(kept, image, (mean + std * noise).clamp(0, 1))


def fill_surroundings(image: Tensor, hole: Tensor) -> Tensor:
    """Colours flow in from the hole's edge: push-pull over a pyramid (Gortler et al., The Lumigraph, 1996)."""
    kept = (~hole)[:, None].float()  # [B, 1, H, W]
    filled = _push_pull(image.movedim(-1, 1) * kept, kept).movedim(1, -1)
    return torch.where(hole[..., None], filled.clamp(0, 1), image)


def _push_pull(colour: Tensor, weight: Tensor) -> Tensor:
    """Weighted colour [B, 3, H, W] and weight [B, 1, H, W] -> colour everywhere."""
    known = colour / weight.clamp(min=1e-6)
    height, width = weight.shape[-2:]
    if height == width == 1:
        return torch.where(weight > 0, known, torch.full_like(known, 0.5))
    coarse = _push_pull(*(F.avg_pool2d(x, 2, ceil_mode=True) for x in (colour, weight)))
    coarse = F.interpolate(coarse, size=(height, width), mode="bilinear")
    return torch.lerp(coarse, known, weight.clamp(0, 1))


FILLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "original": lambda image, hole: image,
    "grey": fill_grey,
    "noise": fill_noise,
    "surroundings": fill_surroundings,
}


def match_colour(generated: Tensor, original: Tensor, kept: Tensor) -> Tensor:
    """Give `generated` the mean and deviation of `original` where kept [B, H, W] is set, per picture and channel.

    Only kept pixels are measured: there both show the same thing, and a difference is the model's colour drift.
    """
    mean, std = _moments(generated, kept[..., None])
    target_mean, target_std = _moments(original, kept[..., None])
    gain = (target_std / std.clamp(min=1e-6)).clamp(1 / MAX_GAIN, MAX_GAIN)
    matched = ((generated - mean) * gain + target_mean).clamp(0, 1)
    return torch.where(kept.any(2).any(1).view(-1, 1, 1, 1), matched, generated)


def _moments(image: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the chosen pixels, [B, 1, 1, C]; 0.5 and 0 where there is none."""
    count = where.sum((1, 2), keepdim=True)
    mean = (image * where).sum((1, 2), keepdim=True) / count.clamp(min=1)
    std = (((image - mean) ** 2 * where).sum((1, 2), keepdim=True) / count.clamp(min=1)).sqrt()
    return torch.where(count > 0, mean, 0.5), std


def match_mean(image: Tensor, reference: Tensor) -> Tensor:
    """Shift each channel of [B, H, W, C] so that, once cut to 0..1, its mean is that of `reference`, of any size.

    What is cut off moves the mean again, so the shift is searched for: the mean only rises with it.
    """
    target = reference.mean((1, 2), keepdim=True)
    low, high = torch.full_like(target, -1.0), torch.full_like(target, 1.0)
    for _ in range(MEAN_BITS + 1):
        shift = (low + high) / 2
        dark = (image + shift).clamp(0, 1).mean((1, 2), keepdim=True) < target
        low, high = torch.where(dark, shift, low), torch.where(dark, high, shift)
    return (image + (low + high) / 2).clamp(0, 1)


def composite(original: Tensor, generated: Tensor, mask: Tensor, *, color_match: bool) -> Tensor:
    """Lay `generated` over `original` through mask [B, H, W]; where the mask is 0 the original's bits are kept."""
    count = max(x.shape[0] for x in (original, generated, mask))
    original, generated, mask = (fit_batch(x, count) for x in (original, generated, mask))
    if color_match:
        generated = match_colour(generated, original, mask == 0)
    mask = mask[..., None]
    return torch.where(mask == 0, original, original.lerp(generated, mask))
