"""Upscale conditioning: the noised low-resolution image next to the latent, and large images in tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.specs import SPECS
from ..samplers import NoiseSchedule, starting_noise
from .images import fit_batch, normalize
from .tiling import tiled
from .types import Latent, Options

FACTOR = 4  # pixels per latent pixel of the upscaler's autoencoder, and thus the enlargement
MAX_LEVEL = SPECS["x4"].max_noise_level or 0
SCHEDULE = NoiseSchedule(beta_start=1e-4, beta_end=2e-2)  # of the image; the latent's is the model's own
KEYS = frozenset({"concat_image", "noise_augmentation", "noise_augmentation_seed"})  # the first two are ComfyUI's

TILE = 256  # latent pixels: what is larger than a square of this side is computed in such squares
OVERLAP = 64
GRID = 8  # latent pixels per pixel of the UNet's deepest level: tiles that begin on it see the same grid as the whole


def options(image: Tensor, level: int, seed: int) -> Options:
    """Conditioning options for an image [B, H, W, 3] in 0..1 to be enlarged."""
    pixels = image.movedim(-1, 1) * 2 - 1  # BHWC in 0..1 -> BCHW in -1..1
    return {"concat_image": pixels, "noise_augmentation": level / MAX_LEVEL, "noise_augmentation_seed": seed}


def encode(image: Tensor, level: int, seed: int) -> tuple[Options, Latent]:
    """Conditioning options and an empty latent of the image's size, which is decoded at `FACTOR` times that."""
    image = normalize(image)
    samples = torch.zeros(len(image), 4, *image.shape[1:3])
    return options(image, level, seed), {"samples": samples, "sd2_factor": FACTOR}


def condition(options: Mapping[str, Any], latent: Tensor, default_seed: int = 0) -> tuple[Tensor, Tensor]:
    """The noised image [B, 3, h, w] and its noise level [B], the class, for a latent [B, 4, h, w].

    default_seed: of the noise where the conditioning has no seed, as ComfyUI's own node sets none; without noise
    augmentation its image then stays clean.
    """
    image = options["concat_image"].float().cpu()
    if image.shape[-2:] != latent.shape[-2:]:
        image = F.interpolate(image, size=latent.shape[-2:], mode="bilinear")
    level = round(MAX_LEVEL * options["noise_augmentation"])
    seed = options.get("noise_augmentation_seed")
    if seed is not None or options["noise_augmentation"] > 0:
        image = add_noise(image, level, starting_noise(image, default_seed if seed is None else seed))
    noised = fit_batch(image, len(latent))
    return noised.to(latent.device), torch.full((len(latent),), level, device=latent.device)


def add_noise(image: Tensor, level: int | Tensor, noise: Tensor) -> Tensor:
    """Noise an image [B, 3, h, w] in -1..1 to a level (or levels [B]) of 0..999.

    x_l = sqrt(a_l) x + sqrt(1 - a_l) noise, the noise conditioning augmentation of arXiv:2106.15282, section 4.2.
    """
    a = SCHEDULE.alphas_cumprod[level].reshape(-1, 1, 1, 1)  # float64: float32 rounds 1 - a_l where a_l is nearly 1
    return a.sqrt().to(image) * image + (1 - a).sqrt().to(image) * noise


def largest_part(shape: Sequence[int]) -> list[int]:
    """The largest [B, C, h, w] that the network computes at once for a latent of this shape."""
    batch, channels, height, width = shape
    whole = height * width <= TILE * TILE
    return [batch, channels, *((height, width) if whole else (min(height, TILE), min(width, TILE)))]


def in_tiles(
    network: Callable[[Tensor], Tensor], x: Tensor, progress: Callable[[int, int], None] = lambda done, total: None
) -> Tensor:
    """network(x) for x [B, C, h, w], where it is large in overlapping tiles whose outputs fade into each other.

    Averaging the tiles at every step (MultiDiffusion, arXiv:2302.08113, equation 5) keeps them one image, and memory
    does not grow with its size.
    """
    if largest_part(x.shape) == list(x.shape):
        return network(x)
    return tiled(network, x, tile=(TILE, TILE), overlap=OVERLAP, scale=1, progress=progress, grid=GRID)
