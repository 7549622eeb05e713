"""The depth map of a CONDITIONING: the fifth channel of the depth model's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.specs import ModelSpec
from .masks import fit_batch
from .wires import Conditioning

DEPTH_CHANNELS = 5  # the noisy latent, the depth map
KEYS = {"concat_depth"}  # [B, 1, h, w] in -1..1


def stretch(depth: Tensor, low: float, high: float) -> Tensor:
    """Each map of [B, ..., H, W] from its own least and greatest value to low..high; a flat one to `low`."""
    dims = tuple(range(1, depth.ndim))
    least, greatest = depth.amin(dims, keepdim=True), depth.amax(dims, keepdim=True)
    span = greatest - least
    flat = span <= 8 * torch.finfo(depth.dtype).eps * greatest.abs()  # but for the rounding of a resize
    return low + (high - low) * ((depth - least) / span).masked_fill(flat, 0)


def fit(depth: Tensor, height: int, width: int) -> Tensor:
    """depth: [B, 1, H, W] of any scale -> [B, 1, height, width] as the model was trained to see it: -1 far, 1 near."""
    return stretch(F.interpolate(depth, size=(height, width), mode="bicubic"), -1, 1)


def channel(options: Mapping[str, Any], latent: Tensor) -> Tensor:
    """The depth map [B, 1, h, w] of a conditioning entry for a latent [B, C, h, w]."""
    depth: Tensor = options["concat_depth"]
    return fit_batch(fit(depth.float(), *latent.shape[-2:]), len(latent)).to(latent.device)


def check(name: str, spec: ModelSpec, *sides: Conditioning) -> None:
    """ValueError where the model `name` is given a depth map that it does not read, or reads one and gets none."""
    given = [options.get("concat_depth") is not None for side in sides for _, options in side]
    reads = spec.unet.in_channels == DEPTH_CHANNELS
    if any(given) and not reads:
        raise ValueError(
            f"{name} is a checkpoint for {spec.task} (kind {spec.kind}), but this graph sets a depth map, which needs "
            "kind v2-depth (512-depth-ema); load that, or leave SD2DepthConditioning out"
        )
    if reads and not all(given):
        raise ValueError(
            f"{name} is a checkpoint for {spec.task} (kind {spec.kind}), but a prompt reaches the sampler without a "
            "depth map; put SD2DepthConditioning between prompts and sampler, or load 512-base-ema to do without one"
        )


@dataclass(frozen=True)
class NoDepthModel:
    """What is on the depth model's wire of a checkpoint that holds none."""

    name: str  # the file's

    def estimate(self, image: Tensor) -> NoReturn:
        raise ValueError(
            f"{self.name} holds no depth estimator; load 512-depth-ema, or give SD2DepthConditioning a depth map made "
            "elsewhere"
        )
