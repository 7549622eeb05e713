"""Stand-ins for the stock nodes that encode images as latents and decode them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .schema import Inputs, Latent, Wire


def _tiles(step: int) -> dict[str, tuple[str, dict[str, int]]]:
    """The widgets of both nodes that work in tiles; the temporal ones are for videos."""
    return {
        "tile_size": ("INT", {"default": 512, "min": 64, "max": 4096, "step": step}),
        "overlap": ("INT", {"default": 64, "min": 0, "max": 4096, "step": 32}),
        "temporal_size": ("INT", {"default": 64, "min": 8, "max": 4096, "step": 4}),
        "temporal_overlap": ("INT", {"default": 8, "min": 4, "max": 4096, "step": 4}),
    }


class VAEEncode:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"pixels": ("IMAGE",), "vae": ("VAE",)}}

    def encode(self, vae: Wire, pixels: Tensor) -> tuple[Latent]:
        return ({"samples": vae.encode(pixels[..., :3])},)


class VAEEncodeTiled:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"pixels": ("IMAGE",), "vae": ("VAE",), **_tiles(64)}}

    def encode(self, vae: Wire, pixels: Tensor, tile_size: int, overlap: int, **_: Any) -> tuple[Latent]:  # noqa: ANN401
        samples = vae.encode_tiled(pixels[..., :3], tile_x=tile_size, tile_y=tile_size, overlap=overlap)
        return ({"samples": samples},)


class VAEDecode:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",)}}

    def decode(self, vae: Wire, samples: Latent) -> tuple[Tensor]:
        return (vae.decode(samples["samples"]),)


class VAEDecodeTiled:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",), **_tiles(32)}}

    def decode(self, vae: Wire, samples: Latent, tile_size: int, overlap: int = 64, **_: Any) -> tuple[Tensor]:  # noqa: ANN401
        """Decode in tiles of tile_size pixels, which overlap by a quarter of that at most."""
        factor = vae.spacial_compression_decode()
        tile, overlap = tile_size // factor, min(overlap, tile_size // 4) // factor
        return (vae.decode_tiled(samples["samples"], tile_x=tile, tile_y=tile, overlap=overlap),)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "VAEEncode": VAEEncode,
    "VAEEncodeTiled": VAEEncodeTiled,
    "VAEDecode": VAEDecode,
    "VAEDecodeTiled": VAEDecodeTiled,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "VAEEncode": "VAE Encode",
    "VAEEncodeTiled": "VAE Encode (Tiled)",
    "VAEDecode": "VAE Decode",
    "VAEDecodeTiled": "VAE Decode (Tiled)",
}
