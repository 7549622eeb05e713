"""Depth conditioning: the fifth input channel of the depth model's UNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .images import fit_batch, normalize
from .types import DepthEstimator, Options

KEYS = frozenset({"concat_depth"})  # [B, 1, h, w] in -1..1


def stretch(depth: Tensor, low: float, high: float) -> Tensor:
    """Stretch each map of [B, ..., H, W] from its own least and greatest value to low..high; a flat one to `low`."""
    dims = tuple(range(1, depth.ndim))
    least, greatest = depth.amin(dims, keepdim=True), depth.amax(dims, keepdim=True)
    span = greatest - least
    flat = span <= 8 * torch.finfo(depth.dtype).eps * greatest.abs()  # up to the rounding of a resize
    return low + (high - low) * ((depth - least) / span).masked_fill(flat, 0)


def fit(depth: Tensor, height: int, width: int) -> Tensor:
    """[B, 1, H, W] of any scale -> [B, 1, height, width] as the model was trained: -1 far, 1 near, in each map."""
    return stretch(F.interpolate(depth, size=(height, width), mode="bicubic"), -1, 1)


def estimate(depth_model: DepthEstimator, image: Tensor) -> Tensor:
    """The depth map of an image [B, H, W, 3] as an image: white is nearest, black farthest."""
    return stretch(depth_model.estimate(normalize(image)), 0, 1)[..., None].repeat(1, 1, 1, 3)


def options(depth: Tensor, height: int, width: int) -> Options:
    """Conditioning options for a depth map, an image [B, H, W, 3], and a latent of height x width."""
    channel = normalize(depth).movedim(-1, 1).mean(1, keepdim=True)  # BHWC -> B1HW
    return {"concat_depth": fit(channel, height, width)}


def channel(options: Mapping[str, Any], latent: Tensor) -> Tensor:
    """The depth map [B, 1, h, w] of a conditioning entry for a latent [B, C, h, w]."""
    depth: Tensor = options["concat_depth"]
    return fit_batch(fit(depth.float(), *latent.shape[-2:]), len(latent)).to(latent.device)
