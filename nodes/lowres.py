"""The low-resolution picture beside an upscaler's noisy latent: how it is noised, and how large ones go in tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.specs import SPECS
from ..samplers import NoiseSchedule
from .masks import fit_batch
from .noise import starting_noise
from .tiling import tiled
from .wires import Conditioning

MAX_LEVEL = SPECS["x4"].max_noise_level or 0
SCHEDULE = NoiseSchedule(beta_start=1e-4, beta_end=2e-2)  # of the picture; the latent's is the model's own
KEYS = {"concat_image", "noise_augmentation", "noise_augmentation_seed"}  # the first two are ComfyUI's

TILE = 256  # latent pixels: what is larger than a square of this side is computed in such squares
OVERLAP = 64
GRID = 8  # latent pixels per pixel of the UNet's deepest level: tiles that begin on it see the same grid as the whole


def values(image: Tensor, level: int, seed: int) -> dict[str, Any]:
    """What the conditioning says of a picture [B, H, W, 3] in 0..1 to be enlarged."""
    pixels = image.movedim(-1, 1) * 2 - 1  # BHWC in 0..1 -> BCHW in -1..1
    return {"concat_image": pixels, "noise_augmentation": level / MAX_LEVEL, "noise_augmentation_seed": seed}


def condition(options: Mapping[str, Any], latent: Tensor) -> tuple[Tensor, Tensor]:
    """The noised picture [B, 3, h, w] and its noise level [B], the class, for a latent [B, 4, h, w].

    x_l = sqrt(a_l) x + sqrt(1 - a_l) noise, the noise conditioning augmentation of arXiv:2106.15282, section 4.2.
    """
    picture = options["concat_image"].float().cpu()
    if picture.shape[-2:] != latent.shape[-2:]:
        picture = F.interpolate(picture, size=latent.shape[-2:], mode="bilinear")
    level = round(MAX_LEVEL * options["noise_augmentation"])
    a = float(SCHEDULE.alphas_cumprod[level])
    noise = starting_noise(picture, options["noise_augmentation_seed"])
    noised = fit_batch(a**0.5 * picture + (1 - a) ** 0.5 * noise, len(latent))
    return noised.to(latent.device), torch.full((len(latent),), level, device=latent.device)


def check_picture(name: str, options: Mapping[str, Any]) -> None:
    """ValueError where the upscaler `name` has no picture to enlarge."""
    if options.get("concat_image") is None:
        raise ValueError(
            f"{name} enlarges a picture, but the conditioning holds none; pass positive and negative through "
            "SD2UpscaleConditioning"
        )


def check(name: str, latent: Tensor, *sides: Conditioning) -> None:
    """ValueError where the upscaler `name` has no picture to enlarge, or one of another size than the latent's."""
    for _, options in (entry for side in sides for entry in side):
        check_picture(name, options)
        (height, width), (h, w) = options["concat_image"].shape[-2:], latent.shape[-2:]
        if (height, width) != (h, w):
            raise ValueError(
                f"{name} enlarges a picture of {width} x {height} and needs a latent of that size, but this one is "
                f"{w} x {h}; take the latent of SD2UpscaleConditioning, or one of the vae of {name} itself"
            )


def largest_part(shape: Sequence[int]) -> list[int]:
    """The largest [B, C, h, w] that the network computes at once for a latent of this shape."""
    batch, channels, height, width = shape
    whole = height * width <= TILE * TILE
    return [batch, channels, *((height, width) if whole else (min(height, TILE), min(width, TILE)))]


def in_tiles(
    network: Callable[[Tensor], Tensor], x: Tensor, progress: Callable[[int, int], None] = lambda done, total: None
) -> Tensor:
    """network(x) for x [B, C, h, w], where it is large in overlapping tiles whose outputs fade into each other.

    The average of the tiles at every step (MultiDiffusion, arXiv:2302.08113, equation 5) keeps them one picture, and
    memory does not grow with it.
    """
    if largest_part(x.shape) == list(x.shape):
        return network(x)
    return tiled(network, x, tile=(TILE, TILE), overlap=OVERLAP, scale=1, progress=progress, grid=GRID)
