"""The colors of latents without their decoder: the fit, the metadata, and the maps in the bundled files."""

import struct
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sd2_family.backends.folders import BUNDLED
from sd2_family.models.latent_rgb import LATENT_RGB, LatentRGB, latent_rgb
from sd2_family.models.specs import AutoencoderSpec
from sd2_family.models.weights_file import read
from sd2_family.nodes.sample_image import SAMPLES
from sd2_family.pipeline.components import load
from sd2_family.pipeline.pil import load as load_image
from sd2_family.training import latent_colors
from torch.nn import functional as F

DEMOS = sorted(BUNDLED.glob("*.safetensors"))
MAP = LatentRGB(((0.5, 0.0, 0.1), (0.0, 0.4, 0.0), (-0.2, 0.0, 0.3), (0.1, 0.2, 0.2)), (0.05, -0.1, 0.2))


@dataclass(frozen=True)
class Linear:
    """An autoencoder whose latents are a linear function of the means of 8x8 pixels, inverse to MAP."""

    spec: AutoencoderSpec = field(default_factory=AutoencoderSpec)

    def encode(self, images):
        rgb = F.avg_pool2d(2 * images.movedim(-1, 1) - 1, 8).movedim(1, -1)
        factors, extra = torch.tensor(MAP.factors), torch.linspace(-1, 1, 64).reshape(1, 8, 8, 1)
        # the fourth latent is free; the other three then follow from the color
        first = (rgb - torch.tensor(MAP.bias) - extra * factors[3]) @ torch.linalg.inv(factors[:3])
        latent = torch.cat([first, extra.expand(len(rgb), -1, -1, -1)], -1).movedim(-1, 1)
        return latent / self.spec.scale


def test_the_fit_finds_a_linear_map():
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    found = latent_colors.fit(Linear(), images)
    assert np.allclose(found.factors, MAP.factors, atol=1e-3)  # from pixels of 8 bits, rounded to 4 digits
    assert np.allclose(found.bias, MAP.bias, atol=1e-3)


def test_metadata_is_set_and_no_tensor_changes(tmp_path):
    path = tmp_path / "file.safetensors"
    tensors = {"a": torch.randn(3, 5).half(), "b": torch.randn(7)}
    save_file(tensors, path, {"title": "A file"})
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    before = path.read_bytes()[8 + length :]
    latent_colors.set_metadata(path, LATENT_RGB, MAP.to_json())
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert length % 8 == 0
    assert path.read_bytes()[8 + length :] == before
    found = read(path)
    assert found.metadata == {"title": "A file", LATENT_RGB: MAP.to_json()}
    assert latent_rgb(found.metadata) == MAP
    assert all(torch.equal(found.tensors[key], tensor) for key, tensor in tensors.items())
    assert [file.name for file in tmp_path.iterdir()] == ["file.safetensors"]


def test_a_file_without_the_metadata_has_no_map_and_a_wrong_one_is_named():
    assert latent_rgb({}) is None
    with pytest.raises(ValueError, match=r"sd2_family.latent_rgb is '\[1\]'; write it as"):
        latent_rgb({LATENT_RGB: "[1]"})


@pytest.mark.parametrize("path", DEMOS, ids=lambda path: path.stem)
def test_a_bundled_file_states_the_colors_of_its_latents(path):
    with safe_open(path, "pt") as file:
        colors = latent_rgb(file.metadata())
    vae = load(path).vae
    error = []
    for name in ("beach.png", "night.png"):
        image = load_image(SAMPLES / name)[0]
        latent = vae.spec.scale * vae.encode(image)[0].movedim(0, -1)
        shown = (latent @ torch.tensor(colors.factors) + torch.tensor(colors.bias)).clamp(-1, 1)
        truth = F.avg_pool2d(2 * image.movedim(-1, 1) - 1, vae.spec.factor)[0].movedim(0, -1)
        error.append((shown - truth).square().mean().sqrt() * 127.5)
    assert max(error) < 30  # of 255; with Stable Diffusion 1.5's map 60 to 120
