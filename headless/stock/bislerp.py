"""Resize latents along great circles: ComfyUI's "bislerp", bilinear resizing with slerp in place of lerp."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

PARALLEL = 1 - 1e-5  # cosine beyond which two directions count as one


def bislerp(x: Tensor, width: int, height: int) -> Tensor:
    """Resize [B, C, h, w], first across and then down; each pixel's C channels are one vector."""
    x = _along_last(x.float().movedim(1, 0), width).transpose(-1, -2)
    return _along_last(x, height).transpose(-1, -2).movedim(0, 1)


def _along_last(x: Tensor, length: int) -> Tensor:
    """Resize the last dimension of [C, ...] to `length`."""
    old = x.shape[-1]
    first = torch.arange(old, dtype=torch.float32)
    # where each new pixel lies among the old, by torch's bilinear rule
    at, after = (
        F.interpolate(index[None, None, None], size=(1, length), mode="bilinear")[0, 0, 0]
        for index in (first, (first + 1).clamp(max=old - 1))
    )
    return _slerp(x[..., at.long()], x[..., after.long()], at.frac())


def _slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Turn a [C, ...] toward b by a share 0..1 of the angle between them; the length is interpolated linearly."""
    length_a, length_b = a.norm(dim=0), b.norm(dim=0)
    unit_a, unit_b = a / length_a.where(length_a > 0, 1), b / length_b.where(length_b > 0, 1)
    cosine = (unit_a * unit_b).sum(0)
    angle = cosine.clamp(-1, 1).acos()
    turned = (((1 - share) * angle).sin() * unit_a + (share * angle).sin() * unit_b) / angle.sin()
    turned = turned * (length_a * (1 - share) + length_b * share)
    turned = torch.where(cosine > PARALLEL, a, turned)
    return torch.where(cosine < -PARALLEL, a * (1 - share) + b * share, turned)
