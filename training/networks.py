"""The demo's networks: small sizes of the Stable Diffusion 2 modules, and the weights that training starts from."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..models.autoencoder import AutoencoderKL
from ..models.clip_text import OpenCLIPText
from ..models.specs import AutoencoderSpec, TextSpec, UNetSpec
from ..models.unet import UNet

AUTOENCODER = AutoencoderSpec(channels=32, channel_mult=(1, 1, 2, 4), num_res_blocks=1, group_size=4)
TEXT = TextSpec(width=64, layers=5, heads=1)
UNET = UNetSpec(
    model_channels=64,
    channel_mult=(1, 1, 2),
    num_res_blocks=1,
    attention=(True, True, True),
    self_attention=(True, True, True),
    context_dim=TEXT.width,
)
LAST_LAYERS = (".conv2.", ".proj_out.", ".out_layers.3.", ".out.2.")  # of residual branches, and of the UNet
INITIAL_LOG_VARIANCE = -6.0  # of the latents: hardly any noise at first


class TextToImage(nn.Module):
    """A UNet and the text encoder that is trained with it."""

    def __init__(self, in_channels: int, spec: UNetSpec = UNET) -> None:
        super().__init__()
        self.unet = UNet(replace(spec, in_channels=in_channels)).to(memory_format=torch.channels_last)
        self.text = OpenCLIPText(TEXT)
        zero_residual_branches(self.unet)

    def forward(self, x: Tensor, timesteps: Tensor, tokens: Tensor, y: Tensor | None = None) -> Tensor:
        """x: [B, C, h, w], timesteps: [B], tokens: [B, 77], y: class condition -> [B, 4, h, w]."""
        predicted: Tensor = self.unet(x, timesteps, self.text(tokens), y)
        return predicted


def new_autoencoder(spec: AutoencoderSpec) -> AutoencoderKL:
    """Build an autoencoder to be trained."""
    model = AutoencoderKL(spec).to(memory_format=torch.channels_last)
    zero_residual_branches(model)
    nn.init.constant_(bias(model.quant_conv)[spec.latent_channels :].data, INITIAL_LOG_VARIANCE)
    return model


def zero_residual_branches(model: nn.Module) -> None:
    """Zero the last layer of every residual branch, and of the UNet: the network starts as its shortcuts."""
    for name, parameter in model.named_parameters():
        if any(layer in f".{name}" for layer in LAST_LAYERS):
            nn.init.zeros_(parameter)


def bias(layer: nn.Conv2d) -> Tensor:
    """Return the bias of a convolution that has one."""
    if layer.bias is None:
        raise ValueError(f"{layer} has no bias; build it with one")
    return layer.bias
