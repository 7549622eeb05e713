"""MiDaS DPT-Hybrid (Ranftl et al. 2021, arXiv:2103.13413): the depth estimator inside 512-depth-ema.

A vision transformer on top of a ResNet, both timm's; feature maps at four scales are fused from coarse to fine.
Attribute paths are the checkpoint's keys after `depth_model.model.`; sizes come from a `DepthSpec`.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from timm.layers.hybrid_embed import HybridEmbed
from timm.layers.std_conv import StdConv2dSame
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .specs import DepthSpec

MULTIPLE = 32  # image pixels per pixel of the coarsest map, each way


class DPTHybrid(nn.Module):
    """Estimate the depth of an image."""

    def __init__(self, spec: DepthSpec) -> None:
        super().__init__()
        self.spec = spec
        self.pretrained = Encoder(spec)
        self.scratch = Decoder(spec)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, 3, H, W] in -1..1, sides multiples of 32 -> inverse depth [B, H, W], 0 or more, of any scale."""
        depth: Tensor = self.scratch(self.pretrained(x))
        return depth

    def estimate(self, image: Tensor) -> Tensor:
        """image: [B, 3, H, W] in -1..1, of any size -> inverse depth [B, h, w] at the size of `network_size`."""
        height, width = image.shape[-2:]
        size = network_size(height, width, self.spec.side)
        # not antialiased, and with the same bicubic kernel as the authors' code
        return cast(Tensor, self(interpolate(image, size=size, mode="bicubic")))


def network_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the size (h, w) at which the network runs: the aspect ratio is kept, rounded to multiples of 32.

    Of the two scales that bring one side to `side`, the one closer to 1 is used (the authors' "minimal" resizing).
    """
    scale = min(side / height, side / width, key=lambda scale: abs(1 - scale))
    height, width = (max(round(scale * length / MULTIPLE), 1) * MULTIPLE for length in (height, width))
    return height, width


class Encoder(nn.Module):
    """Map images to features at 1/4, 1/8, 1/16 and 1/32 of its size: two by the ResNet, two by the transformer."""

    def __init__(self, spec: DepthSpec) -> None:
        super().__init__()
        self.taps = (3 * spec.layers // 4 - 1, spec.layers - 1)  # the transformer layers whose outputs are used
        backbone = ResNetV2(
            layers=list(spec.depths),
            channels=spec.channels,
            stem_chs=spec.stem,
            stem_type="same",
            num_classes=0,
            global_pool="",
            preact=False,
            conv_layer=partial(StdConv2dSame, eps=1e-8),
        )
        self.model = VisionTransformer(
            img_size=spec.side,
            patch_size=1,
            embed_dim=spec.width,
            depth=spec.layers,
            num_heads=spec.heads,
            num_classes=0,
            embed_layer=partial(HybridEmbed, backbone=backbone),
        )
        self.model.norm = nn.Identity()  # of the classifier in the files, which nothing reads
        self.act_postprocess3 = _reassemble(spec.width)
        self.act_postprocess4 = _reassemble(spec.width)
        self.act_postprocess4.append(nn.Conv2d(spec.width, spec.width, 3, stride=2, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: [B, 3, H, W] -> [B, channels[0], H/4, W/4], [B, channels[1], H/8, W/8], [B, width, H/16, W/16] and
        [B, width, H/32, W/32]."""
        embed = self.model.patch_embed
        h = embed.backbone.stem(x)
        maps: list[Tensor] = []
        for stage in embed.backbone.stages:
            h = stage(h)
            maps.append(h)
        h = embed.proj(maps.pop())
        grid = h.shape[-2:]

        first = cast(Tensor, self.model.cls_token).expand(len(x), -1, -1)
        tokens = torch.cat([first, h.flatten(2).transpose(1, 2)], dim=1) + self._positions(grid)
        for index, block in enumerate(self.model.blocks):
            tokens = block(tokens)
            if index in self.taps:
                reassemble = (self.act_postprocess3, self.act_postprocess4)[self.taps.index(index)]
                h = reassemble[0](tokens).transpose(1, 2).unflatten(2, grid)
                maps.append(reassemble[1:](h))
        return maps

    def _positions(self, grid: torch.Size) -> Tensor:
        """Resize the learned position embedding [1, 1 + side^2, width] to another grid (h, w)."""
        positions = cast(Tensor, self.model.pos_embed)
        first, square = positions[:, :1], positions[:, 1:]
        side = self.model.patch_embed.grid_size
        square = square.transpose(1, 2).reshape(1, -1, *side)
        stretched = interpolate(square, size=grid, mode="bilinear")
        return torch.cat([first, stretched.flatten(2).transpose(1, 2)], dim=1)


def _reassemble(width: int) -> nn.Sequential:
    # the identities replace the authors' reshaping layers and keep the checkpoint's numbering
    return nn.Sequential(Readout(width), nn.Identity(), nn.Identity(), nn.Conv2d(width, width, 1))


class Readout(nn.Module):
    """Merge the class token into every other token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [B, 1 + N, width] -> [B, N, width]."""
        first, rest = tokens[:, :1], tokens[:, 1:]
        out: Tensor = self.project(torch.cat([rest, first.expand_as(rest)], dim=-1))
        return out


class Decoder(nn.Module):
    """Fuse feature maps at four scales into one depth map."""

    def __init__(self, spec: DepthSpec) -> None:
        super().__init__()
        features = spec.features
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = (
            nn.Conv2d(channels, features, 3, padding=1, bias=False)
            for channels in (spec.channels[0], spec.channels[1], spec.width, spec.width)
        )
        self.refinenet1, self.refinenet2, self.refinenet3, self.refinenet4 = (
            Fusion(features, merges=number < 4) for number in (1, 2, 3, 4)
        )
        self.output_conv = nn.Sequential(
            nn.Conv2d(features, features // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(features // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
            nn.ReLU(),
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """maps: [B, channels, H/4, W/4] down to [B, channels, H/32, W/32] -> [B, H, W]."""
        h = self.refinenet4(self.layer4_rn(maps[3]))
        h = self.refinenet3(h, self.layer3_rn(maps[2]))
        h = self.refinenet2(h, self.layer2_rn(maps[1]))
        h = self.refinenet1(h, self.layer1_rn(maps[0]))
        out: Tensor = self.output_conv(h)
        return out[:, 0]


class Fusion(nn.Module):
    """Add a finer map to a coarse one, refine the sum and double its size; the coarsest fusion merges nothing."""

    def __init__(self, features: int, *, merges: bool) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        if merges:
            self.resConfUnit1 = ResidualUnit(features)  # for the finer map
        self.resConfUnit2 = ResidualUnit(features)

    def forward(self, h: Tensor, finer: Tensor | None = None) -> Tensor:
        """h and finer: [B, features, h, w] -> [B, features, 2h, 2w]."""
        if finer is not None:
            h = h + self.resConfUnit1(finer)
        h = interpolate(self.resConfUnit2(h), scale_factor=2, mode="bilinear", align_corners=True)
        out: Tensor = self.out_conv(h)
        return out


class ResidualUnit(nn.Module):
    """Two convolutions with a residual connection."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, features, h, w] -> the same shape."""
        return x + cast(Tensor, self.conv2(self.conv1(x.relu()).relu()))
