"""Our modules against the official files: every tensor's name and shape, built on the meta device."""

import pytest
import torch
from checkpoint_layouts import layout
from sd2_family.models.specs import SPECS
from sd2_family.models.unet import UNet


def shapes(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("kind", SPECS)
def test_unet_has_the_tensors_of_the_official_file(kind):
    with torch.device("meta"):
        unet = UNet(SPECS[kind].unet)
    assert shapes(unet) == layout(kind, "model.diffusion_model.")
