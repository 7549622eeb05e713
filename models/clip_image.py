"""CLIP's image towers on open_clip's own blocks: OpenCLIP's ViT-H/14 and OpenAI's ViT-L/14, which unCLIP reads.

Attribute paths are the checkpoint's keys after `embedder.model.`; `image_weights` picks them out of a file. Sizes come
from an `ImageSpec`, so a narrow tower is built, trained and loaded alike.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad

from .clip_text import rename_hugging_face
from .specs import ImageSpec

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# CLIP's text half, which the files hold beside the image tower and nothing reads
_TEXT_HALF = re.compile(
    r"model\.(logit_scale|positional_embedding|text_projection|token_embedding\.weight|ln_final\.(weight|bias)"
    r"|transformer\.resblocks\.\d+\..+)"
)


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


def image_weights(embedder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An `ImageTower`'s weights among a file's `embedder.*`, also where the tower has Hugging Face's names."""
    state = {key.removeprefix("model."): tensor for key, tensor in embedder.items() if not _TEXT_HALF.fullmatch(key)}
    return from_hugging_face(state) if any("vision_model." in key for key in state) else state


_FROM_HUGGING_FACE = (
    ("vision_model.", ""),
    ("embeddings.class_embedding", "class_embedding"),
    ("embeddings.patch_embedding.", "conv1."),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("pre_layrnorm.", "ln_pre."),
    ("post_layernorm.", "ln_post."),
    ("visual_projection.weight", "proj"),
)


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`ImageTower` weights from those of transformers' CLIPVisionModelWithProjection."""
    plain = {key.removeprefix("visual."): tensor for key, tensor in state.items() if "position_ids" not in key}
    renamed = rename_hugging_face(plain, _FROM_HUGGING_FACE)
    if "proj" in renamed:
        renamed["proj"] = renamed["proj"].T.contiguous()  # laid out as in a file, so that products round alike
    return {"visual." + key: tensor for key, tensor in renamed.items()}


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


def image_spec(state: Mapping[str, Tensor], base: ImageSpec, embed_dim: int) -> ImageSpec:
    """The sizes in an `ImageTower`'s weights; the UNet says how long its vectors are, the kind how wide its heads."""
    conv, positions = state["visual.conv1.weight"], state["visual.positional_embedding"]
    grid = math.isqrt(positions.shape[0] - 1)
    found = (re.match(r"visual\.transformer\.resblocks\.(\d+)\.", key) for key in state)
    return replace(
        base,
        width=conv.shape[0],
        layers=len({match[1] for match in found if match}),
        patch_size=conv.shape[-1],
        image_size=grid * conv.shape[-1],
        embed_dim=embed_dim,
    )
