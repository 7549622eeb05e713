"""The models of the family: one frozen table that the checkpoint loader and every node use.

The sizes are those of the official files. A checkpoint's tensor shapes replace them when it is loaded
(`models.detection`), so a narrower model of the same kind needs no entry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Prediction = Literal["epsilon", "v_prediction"]
Condition = Literal["none", "inpaint", "depth", "unclip", "upscale"]
"""What a model takes besides the prompt: a mask and the masked image, a depth map, image embeddings, a small image."""


@dataclass(frozen=True, kw_only=True)
class UNetSpec:
    """Sizes of the denoiser (`models.unet.UNet`)."""

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention: tuple[bool, ...] = (True, True, True, False)  # a transformer after each residual block of the level
    self_attention: tuple[bool, ...] = (True, True, True, True)  # False: both attention layers use the context
    context_dim: int = 1024
    linear_projection: bool = True  # transformer projections: linear (2.x) or 1x1 convolutions (1.x)
    heads: int | None = None  # the number of heads (1.x and x4); if None,
    head_channels: int = 64  # the width of each head (2.x)
    vector_dim: int | None = None  # width of the class vector (unCLIP)
    num_classes: int | None = None  # number of class labels (x4: noise levels)


@dataclass(frozen=True, kw_only=True)
class AutoencoderSpec:
    """Sizes of the KL autoencoder (`models.autoencoder.AutoencoderKL`)."""

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    latent_channels: int = 4
    scale: float = 0.18215  # UNet latents = scale * autoencoder latents
    group_size: int | None = None  # channels per group of the norms, at most 32 groups; None: 32 groups at any width

    @property
    def factor(self) -> int:
        """Image pixels per latent pixel, each way."""
        return 1 << (len(self.channel_mult) - 1)


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """Sizes of the text tower (`models.clip_text`)."""

    tower: Literal["openclip-h", "clip-l"] = "openclip-h"
    width: int = 1024
    layers: int = 24
    heads: int = 16
    pad_token: int = 0
    penultimate: bool = True  # skip the last layer before the final norm (2.x); not in 1.x, nor where a file lacks it


@dataclass(frozen=True, kw_only=True)
class DepthSpec:
    """Sizes of the depth estimator (`models.midas.DPTHybrid`)."""

    stem: int = 64
    channels: tuple[int, ...] = (256, 512, 1024)  # of the ResNet's stages, multiples of 128 for its norms
    depths: tuple[int, ...] = (3, 4, 9)
    width: int = 768
    layers: int = 12
    heads: int = 12
    grid: int = 24  # tokens along one side of the square that the position embedding was trained on
    features: int = 256  # channels of the maps that are fused

    @property
    def side(self) -> int:
        """Pixels along one side of that square."""
        return 16 * self.grid


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """Sizes of the image tower (`models.clip_image`)."""

    tower: Literal["openclip-h", "clip-l"] = "openclip-h"
    width: int = 1280
    layers: int = 32
    head_width: int = 80
    patch_size: int = 14
    image_size: int = 224
    embed_dim: int = 1024


VIT_H = ImageSpec()  # OpenCLIP's
VIT_L = ImageSpec(tower="clip-l", width=1024, layers=24, head_width=64, embed_dim=768)  # OpenAI's


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One kind of checkpoint: its parts, its prediction and its noise schedule."""

    kind: str
    file: str  # the official file, for messages
    task: str  # what it does, for messages
    condition: Condition = "none"
    size: int = 512  # pixels along one side of the images it was trained on
    unet: UNetSpec = UNetSpec()
    autoencoder: AutoencoderSpec = AutoencoderSpec()
    text: TextSpec = TextSpec()
    depth: DepthSpec | None = None  # of the depth estimator in the file
    image: ImageSpec | None = None  # of the image tower in the file (unCLIP)
    prediction: Prediction = "epsilon"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    max_noise_level: int | None = None  # of the conditioning image (x4) or embedding (unCLIP)


_CLIP_L = TextSpec(tower="clip-l", width=768, layers=12, heads=12, pad_token=49407, penultimate=False)
_UNET_V1 = UNetSpec(context_dim=768, linear_projection=False, heads=8)
_UNET_V2 = UNetSpec()
_UNET_X4 = UNetSpec(
    in_channels=7,
    model_channels=256,
    channel_mult=(1, 2, 2, 4),
    attention=(False, True, True, True),
    self_attention=(False, False, False, True),
    heads=8,
    num_classes=1000,
)

_V2 = ModelSpec(kind="v2-base", file="512-base-ema.safetensors", task="text-to-image")
_V1 = replace(_V2, kind="v1", file="v1-5-pruned-emaonly.safetensors", unet=_UNET_V1, text=_CLIP_L)
_UNCLIP = replace(
    _V2,
    task="image variations (unCLIP)",
    condition="unclip",
    size=768,
    prediction="v_prediction",
    max_noise_level=1000,
)

SPECS: dict[str, ModelSpec] = {
    spec.kind: spec
    for spec in (
        _V1,
        replace(
            _V1,
            kind="v1-inpaint",
            file="sd-v1-5-inpainting.ckpt",
            task="inpainting",
            condition="inpaint",
            unet=replace(_UNET_V1, in_channels=9),
        ),
        _V2,
        replace(_V2, kind="v2-v", file="768-v-ema.safetensors", size=768, prediction="v_prediction"),
        replace(
            _V2,
            kind="v2-inpaint",
            file="512-inpainting-ema.safetensors",
            task="inpainting",
            condition="inpaint",
            unet=replace(_UNET_V2, in_channels=9),
        ),
        replace(
            _V2,
            kind="v2-depth",
            file="512-depth-ema.safetensors",
            task="depth-guided generation",
            condition="depth",
            unet=replace(_UNET_V2, in_channels=5),
            depth=DepthSpec(),
        ),
        replace(
            _UNCLIP,
            kind="unclip-h",
            file="sd21-unclip-h.ckpt",
            unet=replace(_UNET_V2, vector_dim=2048),
            image=VIT_H,
        ),
        replace(
            _UNCLIP,
            kind="unclip-l",
            file="sd21-unclip-l.ckpt",
            unet=replace(_UNET_V2, vector_dim=1536),
            image=VIT_L,
        ),
        replace(
            _V2,
            kind="x4",
            file="x4-upscaler-ema.safetensors",
            task="x4 upscaling",
            condition="upscale",
            unet=_UNET_X4,
            autoencoder=AutoencoderSpec(channel_mult=(1, 2, 4), scale=0.08333),
            prediction="v_prediction",
            beta_start=1e-4,
            beta_end=2e-2,
            max_noise_level=350,
        ),
    )
}
