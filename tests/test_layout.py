"""Our modules against the official files: every tensor's name and shape, built on the meta device."""

import pytest
import torch
from checkpoint_layouts import layout
from sd2_family.models.autoencoder import AutoencoderKL
from sd2_family.models.midas import DPTHybrid
from sd2_family.models.parts import DEPTH, READ
from sd2_family.models.specs import SPECS
from sd2_family.models.unet import UNet


def shapes(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("kind", SPECS)
def test_unet_has_the_tensors_of_the_official_file(kind):
    with torch.device("meta"):
        unet = UNet(SPECS[kind].unet)
    assert shapes(unet) == layout(kind, "model.diffusion_model.")


@pytest.mark.parametrize("kind", SPECS)
def test_autoencoder_has_the_tensors_of_the_official_file(kind):
    with torch.device("meta"):
        autoencoder = AutoencoderKL(SPECS[kind].autoencoder)
    assert shapes(autoencoder) == layout(kind, "first_stage_model.")


def test_depth_estimator_has_the_tensors_of_the_official_file():
    with torch.device("meta"):
        network = DPTHybrid(SPECS["v2-depth"].depth)
    official = layout("v2-depth", "depth_model.model.")
    assert shapes(network) == {name: shape for name, shape in official.items() if READ[DEPTH].match(name)}
    unread = {name.rpartition(".")[0] for name in official if not READ[DEPTH].match(name)}
    unit = "scratch.refinenet4.resConfUnit1."
    assert unread == {"pretrained.model.norm", "pretrained.model.head", unit + "conv1", unit + "conv2"}
