"""The denoiser: a UNet of residual blocks and transformers (https://arxiv.org/abs/2112.10752)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .hooks import Control, Hooks
from .specs import UNetSpec
from .transformer import SpatialTransformer


def timestep_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Return cosines, then sines of the timesteps [B] at dim / 2 frequencies from 1 to 1 / 10000: float32 [B, dim]."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.float()[:, None] * torch.exp(-math.log(10000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResBlock(nn.Module):
    """Two convolutions, with the timestep embedding added between them."""

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, in_channels),
            nn.SiLU(),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_dim, out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out_channels),
            nn.SiLU(),
            nn.Identity(),  # the authors' dropout; keeps the checkpoint's numbering
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x: [B, in_channels, h, w], emb: [B, emb_dim] -> [B, out_channels, h, w]."""
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        out: Tensor = self.skip_connection(x) + self.out_layers(h)
        return out


class Downsample(nn.Module):
    """Halve height and width, rounding up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class Upsample(nn.Module):
    """Enlarge to a given height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        out: Tensor = self.conv(interpolate(x, size=size, mode="nearest"))
        return out


class Block(nn.ModuleList):
    """The layers between two skip connections."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, hooks: Hooks, size: torch.Size) -> Tensor:
        """x: [B, C, h, w]; size: the height and width of an upsampling layer's output."""
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context, hooks)
            elif isinstance(layer, Upsample):
                x = layer(x, size)
            else:
                x = layer(x)
        return x


class Encoder(nn.Module):
    """The first half of a UNet, which a ControlNet has as well; attribute paths are the checkpoint's keys."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.spec = spec
        emb_dim = 4 * spec.model_channels
        self.time_embed = _mlp(spec.model_channels, emb_dim)
        self.label_emb = _class_embedding(spec, emb_dim)

        channels = spec.model_channels
        self.input_blocks = nn.ModuleList([Block([nn.Conv2d(spec.in_channels, channels, 3, padding=1)])])
        self.widths = [channels]  # of each block's output
        last_level = len(spec.channel_mult) - 1
        for level, mult in enumerate(spec.channel_mult):
            for _ in range(spec.num_res_blocks):
                layers = [ResBlock(channels, mult * spec.model_channels, emb_dim), *_transformer(spec, level)]
                channels = mult * spec.model_channels
                self.input_blocks.append(Block(layers))
                self.widths.append(channels)
            if level != last_level:
                self.input_blocks.append(Block([Downsample(channels)]))
                self.widths.append(channels)

        self.middle_block = Block(
            [
                ResBlock(channels, channels, emb_dim),
                _spatial_transformer(spec, channels, self_attention=True),
                ResBlock(channels, channels, emb_dim),
            ]
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.parameters()).dtype

    def embed_time(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """timesteps: [B] in 0..999, fractions allowed -> [B, 4 * model_channels] in a dtype."""
        emb: Tensor = self.time_embed(timestep_embedding(timesteps, self.spec.model_channels).to(dtype))
        return emb


class UNet(Encoder):
    """The UNet of every model of the family."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__(spec)
        emb_dim, skips = 4 * spec.model_channels, list(self.widths)
        channels = skips[-1]
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(spec.channel_mult))):
            for index in range(spec.num_res_blocks + 1):
                block = Block([ResBlock(channels + skips.pop(), mult * spec.model_channels, emb_dim)])
                channels = mult * spec.model_channels
                block.extend(_transformer(spec, level))
                if level > 0 and index == spec.num_res_blocks:
                    block.append(Upsample(channels))
                self.output_blocks.append(block)

        self.out = nn.Sequential(
            nn.GroupNorm(32, channels),
            nn.SiLU(),
            nn.Conv2d(channels, spec.out_channels, 3, padding=1),
        )

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        control: Control | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **_: object,
    ) -> Tensor:
        """Predict the noise or the velocity.

        x: [B, in_channels, h, w]; timesteps: [B] in 0..999, fractions allowed; context: [B, T, context_dim];
        y: [B, vector_dim] or labels [B], if the model is class-conditional. `control` and `transformer_options` are
        ComfyUI's, which may also pass conditions for other models. Returns [B, out_channels, h, w].
        """
        if (y is None) != (self.label_emb is None):
            takes = "does not take" if self.label_emb is None else "needs"
            raise ValueError(f"this UNet {takes} class conditioning (y); use the conditioning nodes for its kind")
        hooks = Hooks(x, control, transformer_options)
        emb = hooks.patch_embedding(self.embed_time(timesteps, x.dtype), self.spec.model_channels)
        if self.label_emb is not None:
            emb = emb + self.label_emb(y)

        h = x
        skips: list[Tensor] = []
        for index, block in enumerate(self.input_blocks):
            hooks.enter_block("input", index)
            h = block(h, emb, context, hooks, h.shape[-2:])
            h = hooks.patch("input_block_patch", hooks.add_control("input", h))
            skips.append(h)
            h = hooks.patch("input_block_patch_after_skip", h)

        hooks.enter_block("middle", 0)
        h = hooks.add_control("middle", self.middle_block(h, emb, context, hooks, h.shape[-2:]))

        for index, block in enumerate(self.output_blocks):
            hooks.enter_block("output", index)
            h, skip = hooks.patch_skip(h, hooks.add_control("output", skips.pop()))
            size = skips[-1].shape[-2:] if skips else h.shape[-2:]  # odd sizes: not always twice h's
            h = block(torch.cat([h, skip], dim=1), emb, context, hooks, size)

        out: Tensor = self.out(h)
        return out


def _mlp(dim_in: int, dim_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim_in, dim_out), nn.SiLU(), nn.Linear(dim_out, dim_out))


def _class_embedding(spec: UNetSpec, emb_dim: int) -> nn.Module | None:
    if spec.num_classes is not None:
        return nn.Embedding(spec.num_classes, emb_dim)
    if spec.vector_dim is not None:
        return nn.Sequential(_mlp(spec.vector_dim, emb_dim))
    return None


def _transformer(spec: UNetSpec, level: int) -> list[nn.Module]:
    """Return the transformer after each residual block of the level, if it has one."""
    if not spec.attention[level]:
        return []
    channels = spec.channel_mult[level] * spec.model_channels
    return [_spatial_transformer(spec, channels, self_attention=spec.self_attention[level])]


def _spatial_transformer(spec: UNetSpec, channels: int, *, self_attention: bool) -> SpatialTransformer:
    heads = spec.heads or channels // spec.head_channels
    if heads < 1 or channels % heads:
        raise ValueError(f"{channels} channels cannot be split into {heads} attention heads; change the sizes")
    return SpatialTransformer(
        channels,
        spec.context_dim,
        heads,
        self_attention=self_attention,
        linear_projection=spec.linear_projection,
    )
