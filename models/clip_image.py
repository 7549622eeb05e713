"""CLIP's image towers on open_clip's own blocks: OpenCLIP's ViT-H/14 and OpenAI's ViT-L/14, which unCLIP reads.

Attribute paths are the checkpoint's keys after `embedder.model.`; `detection.image_weights` picks them out of a file.
Sizes come from an `ImageSpec`, so a narrow tower is built, trained and loaded alike.
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
    """A picture to one vector (Radford et al. 2021, arXiv:2103.00020; Cherti et al. 2022, arXiv:2212.07143)."""

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        heads, rest = divmod(spec.width, spec.head_width)
        if rest:
            raise ValueError(
                f"an image tower {spec.width} wide cannot have heads of {spec.head_width}; choose a multiple of that"
            )
        self.spec = spec
        self.visual = VisionTransformer(
            image_size=spec.image_size,
            patch_size=spec.patch_size,
            width=spec.width,
            layers=spec.layers,
            heads=heads,
            mlp_ratio=4.0,
            output_dim=spec.embed_dim,
            act_layer=QuickGELU if spec.tower == "clip-l" else nn.GELU,
        )

    @property
    def dtype(self) -> torch.dtype:
        return cast(torch.dtype, self.visual.proj.dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: [B, 3, image_size, image_size] from `preprocess` -> [B, embed_dim], not normalised to length 1."""
        return cast(Tensor, self.visual(pixels))


def preprocess(images: Tensor, size: int, *, crop: bool = False) -> Tensor:
    """Pictures as the authors hand them to the tower: [B, H, W, 3] in 0..1 -> [B, 3, size, size], normalised.

    The whole picture is squeezed into the square, as in their code; `crop` cuts its middle square out first.
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
    """kornia.geometry.resize(x, (size, size), "bicubic", align_corners=True, antialias=True)."""
    height, width = x.shape[-2:]
    if height == width == size:
        return x
    x = _blur(_blur(x, height / size, vertical=True), width / size, vertical=False)
    return interpolate(x, size=(size, size), mode="bicubic", align_corners=True)


def _blur(x: Tensor, factor: float, *, vertical: bool) -> Tensor:
    """A Gaussian against aliasing, sigma = (factor - 1) / 2, cut off at two sigma but not below three taps."""
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
    """The sizes under transformers' names, which ComfyUI reads as well."""
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
