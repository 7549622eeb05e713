"""UNets at tiny widths with random weights, and inputs for them."""

from dataclasses import replace

import torch
from sd2_family.models.specs import UNetSpec
from sd2_family.models.unet import UNet
from torch import nn

TINY = UNetSpec(
    model_channels=32,
    channel_mult=(1, 2, 2),
    attention=(True, True, False),
    self_attention=(True, True, True),
    context_dim=24,
    head_channels=16,
)
SPECS = {
    "v1": replace(TINY, linear_projection=False, heads=4),
    "v2": TINY,
    "v2-inpaint": replace(TINY, in_channels=9),
    "unclip": replace(TINY, vector_dim=20),
    "x4": replace(
        TINY,
        in_channels=7,
        attention=(False, True, True),
        self_attention=(False, False, True),
        heads=4,
        num_classes=50,
    ),
}
LOUD = ("time_embed", "label_emb", "to_q", "to_k", "to_v", "net.0.proj", "out.2")


def random_unet(spec, seed=0):
    """Every tensor random, and the input of every normalisation so small that its epsilon counts."""
    torch.manual_seed(seed)
    unet = UNet(spec)
    for name, module in unet.named_modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            gain = 1 if name.startswith(LOUD) or name.endswith(LOUD) else 0.01
            nn.init.normal_(module.weight, 0, (1 if "proj_out" in name else gain) * module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.3 * gain)
    return unet.requires_grad_(False)


def inputs(spec, height=20, width=12, batch=2):
    """Keyword arguments of the UNet."""
    torch.manual_seed(1)
    y = None
    if spec.vector_dim is not None:
        y = torch.randn(batch, spec.vector_dim)
    elif spec.num_classes is not None:
        y = torch.randint(spec.num_classes, (batch,))
    return {
        "x": torch.randn(batch, spec.in_channels, height, width),
        "timesteps": torch.linspace(3.25, 987, batch),
        "context": torch.randn(batch, 7, spec.context_dim),
        "y": y,
    }
