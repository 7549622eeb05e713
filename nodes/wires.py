"""What travels between nodes, as ComfyUI defines it. Pictures are float [B, H, W, 3] in 0..1, masks [B, H, W]."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

Conditioning = list[list[Any]]  # of [context [B, T, D], options]
# samples [B, 4, h, w] unscaled, noise_mask, batch_index; ours: sd2_size, (H, W) unpadded; sd2_factor, of its vae
Latent = dict[str, Any]


def with_options(conditioning: Conditioning, options: dict[str, Any]) -> Conditioning:
    """The same conditioning with these options set on every entry."""
    return [[context, {**given, **options}] for context, given in conditioning]


class Clip(Protocol):
    """A text encoder."""

    def tokenize(self, text: str) -> Any: ...  # noqa: ANN401  each encoder's own

    def encode_from_tokens_scheduled(self, tokens: Any) -> Conditioning: ...  # noqa: ANN401


class Vae(Protocol):
    """An autoencoder between pictures and unscaled latents."""

    def encode(self, pixels: Tensor) -> Tensor: ...

    def decode(self, samples: Tensor) -> Tensor: ...

    def decode_tiled(self, samples: Tensor, tile_x: int, tile_y: int, overlap: int) -> Tensor: ...

    def spacial_compression_encode(self) -> int: ...

    def spacial_compression_decode(self) -> int: ...


class DepthModel(Protocol):
    """A depth estimator."""

    def estimate(self, image: Tensor) -> Tensor:
        """[B, H, W, 3] in 0..1 -> inverse depth [B, h, w], 0 or more, of any scale."""
