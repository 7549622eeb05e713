"""Sampling inside a mask, with the latent outside it kept fixed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .solver import Denoise

MaskAt = Callable[[Tensor, float], Tensor]
"""mask_at(mask [B,1,h,w], sigma) -> the mask at that noise level, of the same shape."""


def same_mask(mask: Tensor, sigma: float) -> Tensor:
    """Return the mask unchanged at every noise level."""
    return mask


def keep_unmasked(
    denoise: Denoise, latent: Tensor, noise: Tensor, mask: Tensor, mask_at: MaskAt = same_mask
) -> Denoise:
    """Keep x outside mask [B,1,h,w] at `latent`, noised to each sigma with the same noise."""

    def masked(x: Tensor, sigma: float) -> Tensor:
        now = mask_at(mask, sigma)
        x = (latent + sigma * noise).lerp(x, now)
        return latent.lerp(denoise(x, sigma), now)

    return masked


def hold_unmasked(x: Tensor, latent: Tensor, mask: Tensor) -> Tensor:
    """Restore `latent` where the mask is 0, which removes any noise that the sampler left there."""
    return torch.where(mask > 0, x, latent)
