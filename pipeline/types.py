"""What travels between nodes, as ComfyUI defines it. Images are float [B, H, W, 3] in 0..1, masks [B, H, W]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Options = dict[str, Any]  # of one entry of a conditioning: ComfyUI's keys, and ours
Conditioning = list[list[Any]]  # of [context [B, T, D], options]
# samples [B, 4, h, w] unscaled, noise_mask, batch_index; ours: sd2_size, (H, W) unpadded; sd2_factor, of its vae
Latent = dict[str, Any]


def with_options(conditioning: Conditioning, options: Options) -> Conditioning:
    """Set these options on every entry of a conditioning; the one given stays as it is."""
    return [[context, {**given, **options}] for context, given in conditioning]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to sample: the widgets of SD2 KSampler."""

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float = 1.0
    eta: float = 0.0
    cfg_rescale: float = 0.0
    inner_steps: int = 0


class TextEncoder(Protocol):
    """The object on a CLIP wire."""

    def tokenize(self, text: str) -> Any: ...  # noqa: ANN401  each encoder's own

    def encode_from_tokens_scheduled(self, tokens: Any) -> Conditioning: ...  # noqa: ANN401


class Autoencoder(Protocol):
    """The object on a VAE wire: images to unscaled latents [B, 4, h, w] and back."""

    def encode(self, pixels: Tensor) -> Tensor: ...

    def decode(self, samples: Tensor) -> Tensor: ...

    def decode_tiled(self, samples: Tensor, tile_x: int, tile_y: int, overlap: int) -> Tensor: ...

    def spacial_compression_encode(self) -> int: ...

    def spacial_compression_decode(self) -> int: ...


class DepthEstimator(Protocol):
    """The object on an SD2_DEPTH_MODEL wire."""

    def estimate(self, image: Tensor) -> Tensor:
        """[B, H, W, 3] in 0..1 -> inverse depth [B, h, w], 0 or more, of any scale."""


class ImageEmbeddings(Protocol):
    """The object on a CLIP_VISION_OUTPUT wire."""

    @property
    def image_embeds(self) -> Tensor:
        """[B, D]."""


class ImageEncoder(Protocol):
    """The object on a CLIP_VISION wire."""

    def encode_image(self, image: Tensor, crop: bool = True) -> ImageEmbeddings:
        """[B, H, W, 3] in 0..1 -> embeddings; crop: see only the middle square, else the whole image, squeezed."""
