"""Sampling inside a mask, with the latent outside it kept fixed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .schedule import NoiseSchedule
from .solver import Denoise

MaskAt = Callable[[Tensor, float], Tensor]
"""mask_at(mask [B,1,h,w], sigma) -> the mask at that noise level, of the same shape."""


def same_mask(mask: Tensor, sigma: float) -> Tensor:
    """Return the mask unchanged at every noise level."""
    return mask


def gradual(schedule: NoiseSchedule, sigmas: Tensor, strength: float = 1.0) -> MaskAt:
    """Repaint each pixel from a time of its own on: once the share of timesteps left is at most the mask's value.

    Differential Diffusion (Levin and Fried 2023, arXiv:2306.00950): 1 repaints in the whole run over `sigmas`, 0.5 in
    its second half, 0 never. strength: below 1, the mask's own values are mixed in.
    """
    first, last = (
        float(schedule.timestep(sigma)) for sigma in (sigmas[0], max(float(sigmas[-1]), float(schedule.sigmas[0])))
    )

    def mask_at(mask: Tensor, sigma: float) -> Tensor:
        left = (float(schedule.timestep(sigma)) - last) / max(first - last, 1e-6)
        return mask.lerp(((mask >= left) & (mask > 0)).to(mask), strength)

    return mask_at


def is_soft(mask: Tensor) -> bool:
    """Whether a mask has values between 0 and 1."""
    return bool(((mask > 0) & (mask < 1)).any())


def keep_unmasked(
    denoise: Denoise, latent: Tensor, noise: Tensor, mask: Tensor, mask_at: MaskAt = same_mask
) -> Denoise:
    """Keep x outside mask [B,1,h,w] at `latent`, noised to each sigma with the same noise."""

    def masked(x: Tensor, sigma: float) -> Tensor:
        now = mask_at(mask, sigma)
        x = (latent + sigma * noise).lerp(x, now)
        return latent.lerp(denoise(x, sigma), now)

    return masked


def keep_known(denoise: Denoise, latent: Tensor, mask: Tensor, mask_at: MaskAt = same_mask) -> Denoise:
    """Keep what the model makes of x outside mask [B,1,h,w] at `latent`, and x as it is."""

    def kept(x: Tensor, sigma: float) -> Tensor:
        return latent.lerp(denoise(x, sigma), mask_at(mask, sigma))

    return kept


def hold_unmasked(x: Tensor, latent: Tensor, mask: Tensor) -> Tensor:
    """Restore `latent` where the mask is 0, which removes any noise that the sampler left there."""
    return torch.where(mask > 0, x, latent)
