"""Inpainting conditioning: the mask and the masked image next to the noisy latent (arXiv:2112.10752, appendix)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.specs import SPECS, ModelSpec
from ..samplers import Scale, is_guided, is_soft
from .images import FILLS, fill_gray, fit_batch, normalize, pad
from .masks import feather, snap, to_latent
from .masks import normalize as normalize_mask
from .notices import mask_notices
from .types import Autoencoder, Latent, Options

TAPER = 3  # latent pixels
KEYS = frozenset({"concat_latent_image", "concat_mask"})
GRAY = (0.8223, -0.6876, 0.6364, 0.1380)  # of the published autoencoder, scaled


def encode(
    vae: Autoencoder, image: Tensor, mask: Tensor, fill: str = "original", keep_unmasked: bool = True
) -> tuple[Options, Latent]:
    """Conditioning options and latent for repainting image [B, H, W, 3] where mask (any shape) is at least 0.5.

    fill: a name of `FILLS`, what the masked area of the latent holds. keep_unmasked: hold the rest fixed while
    sampling. Sizes that are not multiples of the VAE's factor are padded; `sd2_size` in the latent undoes it.
    """
    image = normalize(image)
    size = (image.shape[1], image.shape[2])
    mask = snap(normalize_mask(mask, size))
    mask_notices(mask, len(image))
    count = max(len(image), len(mask)) if len(image) == 1 else len(image)  # one image may take many masks
    factor = vae.spacial_compression_encode()
    image, mask = (pad(fit_batch(x, count), factor) for x in (image, mask))
    hole = mask >= 0.5

    # the masked image: image * (mask < 0.5) in -1..1
    masked = vae.encode(fill_gray(image, hole))
    samples = masked if fill == "grey" else vae.encode(FILLS[fill](image, hole))
    height, width = masked.shape[-2:]
    options = {"concat_latent_image": masked, "concat_mask": to_latent(hole, height, width)}
    latent: Latent = {"samples": samples, "sd2_size": size}
    if keep_unmasked or not hole.any():
        latent["noise_mask"] = to_latent(mask if hole.any() else hole, height, width)
    return options, latent


def guidance(scale: float, mask: Tensor | None, spec: ModelSpec | None) -> Scale:
    """The guidance of an inpainting model inside a hard mask [B, 1, h, w]: it rises to `scale` from the mask's edge.

    Guidance is what shifts colors most, and at the edge they must meet those outside. A model of another kind, a soft
    mask or none leave it as it is.
    """
    if mask is None or spec is None or spec.condition != "inpaint" or is_soft(mask) or not is_guided(scale):
        return scale
    return 1 + (scale - 1) * feather(mask[:, 0], TAPER)[:, None]


def channels(
    options: Mapping[str, Any],
    latent: Tensor,
    mask: Tensor | None,
    spec: ModelSpec,
    encode: Callable[[Tensor], Tensor],
) -> Tensor:
    """The UNet's inputs [B, 5, h, w] after the noisy latent: the mask, and the masked image's scaled latent.

    latent: [B, 4, h, w] scaled, and mask [B, 1, h, w]: what is used where the conditioning has none, as in ComfyUI.
    encode: images [B, H, W, 3] in 0..1 -> latents, unscaled.
    """
    height, width = latent.shape[-2:]
    mask, masked = options.get("concat_mask", mask), options.get("concat_latent_image")
    if mask is None:
        mask = latent.new_ones(1, 1, height, width)
        masked = gray_latent(spec, encode).expand(1, -1, height, width)
    elif masked is None:
        masked = latent
    else:
        masked = spec.autoencoder.scale * masked.float()
    if masked.shape[-2:] != latent.shape[-2:]:
        masked = F.interpolate(masked, size=(height, width), mode="bilinear")
    mask = normalize_mask(mask)[:, None]
    if mask.shape[-2:] != latent.shape[-2:]:  # of ComfyUI's own node, in pixels
        mask = F.interpolate(mask, size=(height, width), mode="bilinear")
    mask = mask.round()  # ComfyUI's rule: a half becomes 0
    return join(*(fit_batch(x, len(latent)).to(latent.device) for x in (mask, masked)))


def join(mask: Tensor, masked: Tensor) -> Tensor:
    """Join mask [B, 1, h, w] and the masked image's scaled latent [B, 4, h, w] in the order of the UNet's inputs."""
    return torch.cat([mask, masked], dim=1)


def gray_latent(spec: ModelSpec, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """[1, 4, 1, 1], scaled: the latent of an image masked everywhere, the same at any size, as in ComfyUI.

    ComfyUI's constants hold for the published autoencoder; another one encodes gray itself.
    encode: images [B, H, W, 3] in 0..1 -> latents, unscaled.
    """
    if spec.autoencoder == SPECS[spec.kind].autoencoder:
        return torch.tensor(GRAY).reshape(1, 4, 1, 1)
    gray = encode(torch.full((1, 64, 64, 3), 0.5))[:, :, 2:-2, 2:-2]  # the border sees the padding
    return spec.autoencoder.scale * gray.float().mean((2, 3), keepdim=True)
