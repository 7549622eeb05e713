"""Latents: checked before sampling, decoded after it."""

from __future__ import annotations

from torch import Tensor

from .images import ceil_to, fit_batch
from .masks import to_latent
from .types import Autoencoder, Latent

MIN_TILE = 8  # latent pixels


def samples_of(latent: Latent) -> Tensor:
    """The latent's samples, float32 on the CPU; ValueError where no model of the family can sample them."""
    samples: Tensor = latent["samples"]
    if samples.ndim != 4 or samples.shape[1] != 4:
        raise ValueError(f"the latent has shape {list(samples.shape)}; connect one of shape [batch, 4, height, width]")
    if samples.isnan().any():
        raise ValueError("the latent contains NaN before sampling; encode the image again with dtype float32")
    return samples.float().cpu()


def mask_of(latent: Latent) -> Tensor | None:
    """The latent's noise mask of any shape as [B, 1, h, w], on the CPU; None where it has none."""
    mask, samples = latent.get("noise_mask"), latent["samples"]
    return None if mask is None else fit_batch(to_latent(mask, *samples.shape[-2:]), len(samples)).cpu()


def decode(vae: Autoencoder, latent: Latent, tile_size: int = 0) -> Tensor:
    """Decode a latent to images [B, H, W, 3], without the padding that `inpaint.encode` added.

    tile_size: the side of a tile in pixels; 0 decodes in tiles only where memory needs it.
    """
    samples: Tensor = latent["samples"]
    if samples.isnan().any():
        raise ValueError(
            "the latent contains NaN; set dtype to bfloat16 or float32 in SD2 Load Checkpoint and sample again"
        )
    factor, needed = vae.spacial_compression_decode(), latent.get("sd2_factor")
    if needed not in (None, factor):
        raise ValueError(
            f"the latent needs a vae that decodes at {needed}x, but this one decodes at {factor}x; connect the vae of "
            "the checkpoint that it was sampled with"
        )
    if tile_size == 0:
        return _unpad(vae.decode(samples), latent.get("sd2_size"))
    tile = max(tile_size // factor, MIN_TILE)
    return _unpad(vae.decode_tiled(samples, tile_x=tile, tile_y=tile, overlap=tile // 4), latent.get("sd2_size"))


def _unpad(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Cut off the padding, unless the latent was resized since it was encoded."""
    if size is None or tuple(image.shape[1:3]) != (ceil_to(size[0], 8), ceil_to(size[1], 8)):
        return image
    return image[:, : size[0], : size[1]]
