"""The KL autoencoder that maps images to latents and back (arXiv:2112.10752, section 3.1 and appendix G).

Attribute paths are the checkpoint's keys after `first_stage_model.`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .specs import AutoencoderSpec


def _norm(channels: int, group_size: int | None) -> nn.GroupNorm:
    groups = 32 if group_size is None else min(32, channels // group_size)
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [B, c_in, H, W] -> [B, c_out, H, W]."""

    def __init__(self, c_in: int, c_out: int, group_size: int | None) -> None:
        super().__init__()
        self.norm1 = _norm(c_in, group_size)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = _norm(c_out, group_size)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()  # checkpoint name

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.nin_shortcut(x) + h
        return out


class AttentionBlock(nn.Module):
    """Single-head self-attention over all pixels: [B, C, H, W] -> [B, C, H, W]."""

    def __init__(self, channels: int, group_size: int | None) -> None:
        super().__init__()
        self.norm = _norm(channels, group_size)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (rearrange(layer(h), "b c h w -> b 1 (h w) c") for layer in (self.q, self.k, self.v))
        h = rearrange(F.scaled_dot_product_attention(q, k, v), "b 1 (h w) c -> b c h w", h=x.shape[2])
        out: Tensor = x + self.proj_out(h)
        return out


class Downsample(nn.Module):
    """Strided 3x3 convolution: [B, C, H, W] -> [B, C, H/2, W/2]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.pad(x, (0, 1, 0, 1)))  # the reference pads right and bottom only
        return x


class Upsample(nn.Module):
    """Nearest-neighbor upsampling, then a 3x3 convolution: [B, C, H, W] -> [B, C, 2H, 2W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, group_size: int | None) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, group_size)
        self.attn_1 = AttentionBlock(channels, group_size)
        self.block_2 = ResidualBlock(channels, channels, group_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block_2(self.attn_1(self.block_1(x)))
        return x


class Level(nn.Module):
    """Residual blocks at one resolution, then the up- or downsampling to the next one, if any."""

    def __init__(
        self, c_in: int, c_out: int, blocks: int, group_size: int | None, *, down: bool = False, up: bool = False
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(c_in if i == 0 else c_out, c_out, group_size) for i in range(blocks))
        self.downsample = Downsample(c_out) if down else nn.Identity()
        self.upsample = Upsample(c_out) if up else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        out: Tensor = self.upsample(self.downsample(x))
        return out


class Encoder(nn.Module):
    """[B, 3, H, W] -> [B, 2 * latent_channels, H/f, W/f]: mean and log-variance before `quant_conv`."""

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        widths = [spec.channels * m for m in spec.channel_mult]
        self.conv_in = nn.Conv2d(3, spec.channels, 3, padding=1)
        self.down = nn.ModuleList(
            Level(c_in, c_out, spec.num_res_blocks, spec.group_size, down=i < len(widths) - 1)
            for i, (c_in, c_out) in enumerate(pairwise([spec.channels, *widths]))
        )
        self.mid = Middle(widths[-1], spec.group_size)
        self.norm_out = _norm(widths[-1], spec.group_size)
        self.conv_out = nn.Conv2d(widths[-1], 2 * spec.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        x = self.mid(x)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return x


class Decoder(nn.Module):
    """[B, latent_channels, h, w] -> [B, 3, h*f, w*f]."""

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        widths = [spec.channels * m for m in spec.channel_mult]
        self.conv_in = nn.Conv2d(spec.latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], spec.group_size)
        self.up = nn.ModuleList(  # up[0] is the full resolution
            Level(c_in, c_out, spec.num_res_blocks + 1, spec.group_size, up=i > 0)
            for i, (c_out, c_in) in enumerate(pairwise([*widths, widths[-1]]))
        )
        self.norm_out = _norm(spec.channels, spec.group_size)
        self.conv_out = nn.Conv2d(spec.channels, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class AutoencoderKL(nn.Module):
    """The autoencoder between images in -1..1 and unscaled latents (the sampler applies `spec.scale`)."""

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)
        self.quant_conv = nn.Conv2d(2 * spec.latent_channels, 2 * spec.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(spec.latent_channels, spec.latent_channels, 1)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.quant_conv.weight.dtype

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z|x): x [B, 3, H, W] in -1..1 -> two tensors [B, 4, H/f, W/f]."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def encode(self, x: Tensor) -> Tensor:
        """Return the mode of q(z|x): x [B, 3, H, W] in -1..1, H and W multiples of f -> [B, 4, H/f, W/f]."""
        return self.moments(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Decode unscaled latents: z [B, 4, h, w] -> [B, 3, h*f, w*f], about -1..1."""
        x: Tensor = self.decoder(self.post_quant_conv(z))
        return x
