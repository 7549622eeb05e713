"""Nodes that decode latents."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..pipeline.images import ceil_to
from ..pipeline.types import Autoencoder, Latent

MIN_TILE = 8  # latent pixels


class SD2VAEDecode:
    """Decode latents to images."""

    CATEGORY = "SD2/latent"
    DESCRIPTION = (
        "Decode latents to images, in tiles if they are large. Images that SD2 VAE Encode (for Inpainting) padded are "
        "cropped back to their original size."
    )
    SEARCH_ALIASES = ("latent to image", "vae decode tiled")
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The decoded image.",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "samples": ("LATENT", {"tooltip": "The latents to decode."}),
                "vae": ("VAE", {"tooltip": "The autoencoder, from the same checkpoint as the model."}),
                "tile_size": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 4096,
                        "step": 64,
                        "tooltip": "Tile size in pixels; smaller needs less memory. 0 uses tiles only when needed.",
                    },
                ),
            }
        }

    def decode(self, samples: Latent, vae: Autoencoder, tile_size: int = 0) -> tuple[Tensor]:
        latent = samples["samples"]
        if latent.isnan().any():
            raise ValueError(
                "the latent contains NaN; set dtype to bfloat16 or float32 in SD2 Load Checkpoint and sample again"
            )
        factor, needed = vae.spacial_compression_decode(), samples.get("sd2_factor")
        if needed not in (None, factor):
            raise ValueError(
                f"the latent needs a vae that decodes at {needed}x, but this one decodes at {factor}x; connect the "
                "vae of the checkpoint that it was sampled with"
            )
        if tile_size == 0:
            return (_unpad(vae.decode(latent), samples.get("sd2_size")),)
        tile = max(tile_size // factor, MIN_TILE)
        image = vae.decode_tiled(latent, tile_x=tile, tile_y=tile, overlap=tile // 4)
        return (_unpad(image, samples.get("sd2_size")),)


def _unpad(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Crop the padding off, unless the latent was resized after encoding."""
    if size is None or tuple(image.shape[1:3]) != (ceil_to(size[0], 8), ceil_to(size[1], 8)):
        return image
    return image[:, : size[0], : size[1]]
