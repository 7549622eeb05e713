"""CLIP's image towers, built from open_clip's blocks: OpenCLIP's ViT-H/14 and OpenAI's ViT-L/14, used by unCLIP.

Attribute paths are the checkpoint's keys after `embedder.model.`; `parts.image_weights` extracts them from a file.
All sizes come from an `ImageSpec`.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad

from .specs import ImageSpec

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ImageTower(nn.Module):
    """Encode images (Radford et al. 2021, arXiv:2103.00020; Cherti et al. 2022, arXiv:2212.07143)."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.spec = spec
        self.visual = VisionTransformer(
            image_size=spec.image_size,
            patch_size=spec.patch_size,
            width=spec.width,
            layers=spec.layers,
            heads=spec.width // spec.head_width,
            mlp_ratio=4.0,
            output_dim=spec.embed_dim,
            act_layer=QuickGELU if spec.tower == "clip-l" else nn.GELU,
        )

    @property
    def dtype(self) -> torch.dtype:
        return cast(torch.dtype, self.visual.proj.dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: [B, 3, image_size, image_size] from `preprocess` -> [B, embed_dim], not normalized to length 1."""
        return cast(Tensor, self.visual(pixels))


def preprocess(images: Tensor, size: int, *, crop: bool = False) -> Tensor:
    """Resize and normalize images for the tower, as the authors do: [B, H, W, 3] in 0..1 -> [B, 3, size, size].

    The whole image is squeezed into the square, as in their code; with `crop`, its center square is cut out first.
    """
    x = images[..., :3].float().movedim(-1, 1)
    if crop:
        height, width = x.shape[-2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        x = x[..., top : top + side, left : left + side]
    mean, std = (x.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (_resize(x, size) - mean) / std


def _resize(x: Tensor, size: int) -> Tensor:
    """Reproduce kornia.geometry.resize(x, (size, size), "bicubic", align_corners=True, antialias=True)."""
    height, width = x.shape[-2:]
    if height == width == size:
        return x
    x = _blur(_blur(x, height / size, vertical=True), width / size, vertical=False)
    return interpolate(x, size=(size, size), mode="bicubic", align_corners=True)


def _blur(x: Tensor, factor: float, *, vertical: bool) -> Tensor:
    """Blur against aliasing: a Gaussian, sigma = (factor - 1) / 2, cut off at two sigma, with at least three taps."""
    if factor <= 1:
        return x
    sigma = max((factor - 1) / 2, 1e-3)
    radius = math.floor(max(4 * sigma, 3)) // 2
    kernel = torch.exp(-(torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device) ** 2) / (2 * sigma**2))
    channels = x.shape[1]
    shape, around = ((-1, 1), (0, 0, radius, radius)) if vertical else ((1, -1), (radius, radius, 0, 0))
    weight = (kernel / kernel.sum()).reshape(1, 1, *shape).expand(channels, 1, -1, -1)
    return conv2d(pad(x, around, mode="reflect"), weight, groups=channels)


def hugging_face_config(spec: ImageSpec) -> dict[str, str | int]:
    """Return the sizes under transformers' names, which ComfyUI also uses."""
    return {
        "model_type": "clip_vision_model",
        "hidden_size": spec.width,
        "intermediate_size": 4 * spec.width,
        "num_attention_heads": spec.width // spec.head_width,
        "num_hidden_layers": spec.layers,
        "num_channels": 3,
        "patch_size": spec.patch_size,
        "image_size": spec.image_size,
        "projection_dim": spec.embed_dim,
        "hidden_act": "quick_gelu" if spec.tower == "clip-l" else "gelu",
    }
