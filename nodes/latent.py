"""Nodes that decode latents."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..pipeline import latents
from ..pipeline.types import Autoencoder, Latent


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
        return (latents.decode(vae, samples, tile_size),)
