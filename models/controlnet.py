"""ControlNet: a copy of the UNet's first half that reads an image (Zhang et al. 2023, arXiv:2302.05543)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from .hooks import Hooks
from .specs import UNetSpec
from .unet import Encoder

STRIDES = (1, 1, 2, 1, 2, 1, 2, 1)  # of the convolutions from the image, which is 8 times the latent's size


@dataclass(frozen=True, kw_only=True)
class ControlNetSpec:
    """Sizes of a ControlNet."""

    encoder: UNetSpec  # of the UNet's first half
    hint_channels: int = 3  # of the image
    hint_widths: tuple[int, ...] = (16, 16, 32, 32, 96, 96, 256)  # of the convolutions but the last


class ControlNet(Encoder):
    """Residuals for a UNet's skip connections and middle block; attribute paths are the authors' keys."""

    def __init__(self, spec: ControlNetSpec) -> None:
        super().__init__(spec.encoder)
        widths = (spec.hint_channels, *spec.hint_widths, spec.encoder.model_channels)
        layers: list[nn.Module] = []
        for before, after, stride in zip(widths[:-1], widths[1:], STRIDES, strict=True):
            layers += [nn.Conv2d(before, after, 3, padding=1, stride=stride), nn.SiLU()]
        self.input_hint_block = nn.Sequential(*layers[:-1])
        self.zero_convs = nn.ModuleList(nn.Sequential(nn.Conv2d(width, width, 1)) for width in self.widths)
        self.middle_block_out = nn.Sequential(nn.Conv2d(self.widths[-1], self.widths[-1], 1))

    def forward(self, x: Tensor, hint: Tensor, timesteps: Tensor, context: Tensor) -> dict[str, list[Tensor]]:
        """Return the UNet's `control`: a residual for the output of each input block, and for the middle block's.

        x: [B, 4, h, w]; hint: [B, hint_channels, 8 h, 8 w]; timesteps: [B]; context: [B, T, context_dim].
        """
        hooks = Hooks(x, None, None)  # nothing hooks into a ControlNet
        emb = self.embed_time(timesteps, x.dtype)
        h, residuals = x, []
        for index, (block, zero_conv) in enumerate(zip(self.input_blocks, self.zero_convs, strict=True)):
            hooks.enter_block("input", index)
            h = block(h, emb, context, hooks, h.shape[-2:])
            if index == 0:
                h = h + self.input_hint_block(hint)
            residuals.append(zero_conv(h))
        hooks.enter_block("middle", 0)
        h = self.middle_block(h, emb, context, hooks, h.shape[-2:])
        return {"output": residuals, "middle": [self.middle_block_out(h)]}
