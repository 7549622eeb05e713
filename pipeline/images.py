"""Images: float [B, H, W, 3] in 0..1."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .pil import to_pil


def normalize(image: Tensor) -> Tensor:
    """IMAGE of any dtype, with or without alpha -> float32 [B, H, W, 3]; ValueError for what cannot be used."""
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"an IMAGE is [batch, height, width, 3], but this one is {list(image.shape)}; decode it first"
        )
    if image.numel() == 0:
        raise ValueError(f"an IMAGE of shape {list(image.shape)} has no pixels; connect one that has")
    image = image[..., :3].float()
    if not image.isfinite().all():
        raise ValueError(
            "the image contains NaN or infinity; load the checkpoint that made it with dtype bfloat16 or float32"
        )
    return image.expand(-1, -1, -1, 3)


def fit_batch(x: Tensor, count: int) -> Tensor:
    """Repeat along the first dimension, then cut, to `count` items."""
    return x if x.shape[0] == count else x.repeat(math.ceil(count / x.shape[0]), *[1] * (x.ndim - 1))[:count]


def ceil_to(length: int, multiple: int) -> int:
    """Round `length` up to a multiple."""
    return -(-length // multiple) * multiple


def pad(x: Tensor, multiple: int) -> Tensor:
    """Reflect [B, H, W, ...] at its bottom and right edges until H and W are multiples; `x[:, :H, :W]` undoes it."""
    rows, columns = (_reflected(length, ceil_to(length, multiple)).to(x.device) for length in x.shape[1:3])
    return x[:, rows][:, :, columns]


def _reflected(length: int, padded: int) -> Tensor:
    """Indices 0 1 2 1 0 1 2... for length 3: F.pad refuses a border longer than the image."""
    period = max(2 * (length - 1), 1)
    index = torch.arange(padded) % period
    return torch.minimum(index, period - index)


def fit(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [B, H, W, C] to `size` (H, W), or only cut it where it is larger by a padding to a multiple of 8."""
    height, width = size
    if image.shape[1:3] == (ceil_to(height, 8), ceil_to(width, 8)):
        return image[:, :height, :width]
    return resample(image, size)


def resample(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [B, H, W, C] to (H, W): smoothly to a larger size, without aliasing to a smaller one."""
    if tuple(image.shape[1:3]) == size:
        return image
    x = image.movedim(-1, 1)  # BHWC -> BCHW
    x = F.interpolate(x, size=size, mode="bicubic", antialias=True)
    return x.clamp(0, 1).movedim(1, -1)


def scale(image: Tensor, width: int, height: int, *, method: str = "lanczos", crop: bool = False) -> Tensor:
    """Scale [B,H,W,C] to width x height; 0 for one of them keeps the aspect, 0 for both keeps the size.

    crop: cut the middle out of the image first, so that its aspect is kept.
    """
    if width == 0 and height == 0:
        return image
    width = width or max(1, round(image.shape[2] * height / image.shape[1]))
    height = height or max(1, round(image.shape[1] * width / image.shape[2]))
    return resize(crop_to_aspect(image, width / height) if crop else image, method, width, height)


def crop_to_aspect(image: Tensor, aspect: float) -> Tensor:
    """Cut the middle out of [B,H,W,C] so that width / height = `aspect`."""
    height, width = image.shape[1:3]
    own = width / height
    x = max(0, round((width - width * (aspect / own)) / 2))
    y = max(0, round((height - height * (own / aspect)) / 2))
    return image[:, y : height - y, x : width - x]


def resize(image: Tensor, method: str, width: int, height: int) -> Tensor:
    """Resize [B,H,W,C] by one of ComfyUI's methods: nearest-exact, bilinear, area, bicubic, lanczos."""
    if method == "lanczos":  # torch has none
        resized = [to_pil(one).resize((width, height), Image.Resampling.LANCZOS) for one in image]
        return torch.stack([torch.from_numpy(np.array(one, np.float32) / 255) for one in resized]).to(image)
    return F.interpolate(image.movedim(-1, 1), size=(height, width), mode=method).movedim(1, -1)


def moments(image: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the pixels where [B, H, W, 1] is set, each [B, 1, 1, C]; 0.5 and 0 if none is."""
    count = where.sum((1, 2), keepdim=True)
    mean = (image * where).sum((1, 2), keepdim=True) / count.clamp(min=1)
    std = (((image - mean) ** 2 * where).sum((1, 2), keepdim=True) / count.clamp(min=1)).sqrt()
    return torch.where(count > 0, mean, 0.5), std


def fill_gray(image: Tensor, hole: Tensor) -> Tensor:
    """Fill hole [B, H, W] with mid-gray, the zero of -1..1, as in the inpainting models' training."""
    return image.masked_fill(hole[..., None], 0.5)


def fill_noise(image: Tensor, hole: Tensor) -> Tensor:
    """Fill the hole with normal noise that has the mean and deviation of what is kept; its seed is fixed."""
    kept = ~hole[..., None]
    mean, std = moments(image, kept)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image.device)
    return torch.where(kept, image, (mean + std * noise).clamp(0, 1))


def fill_surroundings(image: Tensor, hole: Tensor) -> Tensor:
    """Fill the hole with colors that flow in from its edge: push-pull (Gortler et al. 1996, The Lumigraph)."""
    kept = (~hole)[:, None].float()  # [B, 1, H, W]
    filled = _push_pull(image.movedim(-1, 1) * kept, kept).movedim(1, -1)
    return torch.where(hole[..., None], filled.clamp(0, 1), image)


def _push_pull(color: Tensor, weight: Tensor) -> Tensor:
    """Weighted color [B, 3, H, W] and weight [B, 1, H, W] -> color everywhere."""
    known = color / weight.clamp(min=1e-6)
    height, width = weight.shape[-2:]
    if height == width == 1:
        return torch.where(weight > 0, known, torch.full_like(known, 0.5))
    coarse = _push_pull(*(F.avg_pool2d(x, 2, ceil_mode=True) for x in (color, weight)))
    coarse = F.interpolate(coarse, size=(height, width), mode="bilinear")
    return torch.lerp(coarse, known, weight.clamp(0, 1))


FILLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "original": lambda image, hole: image,
    "grey": fill_gray,
    "noise": fill_noise,
    "surroundings": fill_surroundings,
}
