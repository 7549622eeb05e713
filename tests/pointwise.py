"""An autoencoder in which tiles cannot show: imported by tests, and by scripts in ComfyUI's process."""

import copy

import torch
from torch import nn


def pointwise(autoencoder):
    """A copy whose every output pixel depends on one place alone: no attention, norms without statistics, 1x1 kernels.

    What is left, and random as before, is every change of channels and of size.
    """
    local = copy.deepcopy(autoencoder)
    for module in local.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            middle = module.weight[:, :, 1, 1].detach().clone()
            module.weight = nn.Parameter(torch.zeros_like(module.weight), requires_grad=False)
            module.weight[:, :, 1, 1] = 3 * middle  # as loud as the nine together
        elif isinstance(module, nn.GroupNorm):
            module.forward = lambda x, norm=module: x * norm.weight[:, None, None] + norm.bias[:, None, None]
    for side in (local.encoder, local.decoder):
        side.mid.attn_1.forward = lambda x: x
    return local
