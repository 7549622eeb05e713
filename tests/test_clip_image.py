"""The image towers against transformers' encoder, the authors' preprocessing and the official files' layouts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoint_layouts import layout
from diffusers_keys import transformers_image
from PIL import Image
from sd2_family.models import hugging_face
from sd2_family.models.clip_image import MEAN, STD, ImageTower, preprocess
from sd2_family.models.detection import image_weights
from sd2_family.models.noise_augmentation import NoiseAugmentation
from sd2_family.models.specs import SPECS
from sd2_family.nodes.sample_image import SAMPLES
from tiny import hugging_face_image, randomise, tiny_spec
from transformers import CLIPImageProcessor

KINDS = ("unclip-h", "unclip-l")


def tower(kind):
    spec = tiny_spec(kind).image
    return randomise(ImageTower(replace(spec, width=2 * spec.head_width)), seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_same_embedding_as_transformers(kind):
    ours = tower(kind)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    theirs = transformers_image(ours)(pixels).image_embeds
    assert torch.allclose(ours(pixels), theirs, rtol=0, atol=1e-4)  # 2e-6 is seen, on values up to 4
    assert theirs.std() > 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_hugging_faces_names_are_understood(kind):
    state = tower(kind).state_dict()
    renamed = hugging_face_image(state)
    for given in (
        hugging_face.image_weights(renamed),
        image_weights({f"model.visual.{key}": t for key, t in renamed.items()}),
    ):
        assert given.keys() == state.keys()
        assert all(torch.equal(given[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("kind", KINDS)
def test_tower_and_noise_have_the_tensors_of_the_official_file(kind):
    with torch.device("meta"):
        tower = ImageTower(SPECS[kind].image)
    official = {name: torch.empty(shape, device="meta") for name, shape in layout(kind, "embedder.").items()}
    assert {name: t.shape for name, t in tower.state_dict().items()} == {
        name: t.shape for name, t in image_weights(official).items()
    }
    noise = NoiseAugmentation(SPECS[kind].image.embed_dim).state_dict()
    assert {name: tuple(t.shape) for name, t in noise.items()} == layout(kind, "noise_augmentor.")


def test_preprocessing_is_that_of_the_authors():
    picture = (torch.arange(7 * 10 * 3) * 37 % 101 / 100).reshape(1, 7, 10, 3)
    # FrozenOpenCLIPImageEmbedder.preprocess at size 4 with kornia 0.7.4, green channel
    expected = [
        [-0.16550, 0.80991, 1.08597, -0.93183],
        [-0.23997, 0.73544, 1.01149, -1.00630],
        [-0.31651, 0.65890, 0.93496, -1.08284],
        [-0.39098, 0.58443, 0.86048, -1.15731],
    ]
    assert torch.allclose(preprocess(picture, 4)[0, 1], torch.tensor(expected), rtol=0, atol=1e-5)


def test_a_picture_of_the_towers_size_is_only_normalised():
    picture = torch.rand(2, 8, 8, 4)
    expected = (picture[..., :3] - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(preprocess(picture, 8), expected.movedim(-1, 1), atol=1e-6)


def test_cropping_looks_at_the_middle_square():
    picture = torch.rand(1, 12, 30, 3)
    assert torch.equal(preprocess(picture, 8, crop=True), preprocess(picture[:, :, 9:21], 8))
    assert not torch.allclose(preprocess(picture, 8), preprocess(picture, 8, crop=True), atol=0.1)
    assert preprocess(torch.rand(1, 1, 50, 3), 8).isfinite().all()


@pytest.mark.parametrize("enlarged", [1, 3])
def test_what_diffusers_would_show_the_tower_is_close(enlarged):
    """Another interpolation: on average under 1 of 255, at edges up to 60; ComfyUI's differs as much."""
    picture = Image.open(SAMPLES / "beach.png").convert("RGB")
    picture = picture.resize((picture.width * enlarged, picture.height * enlarged), Image.Resampling.LANCZOS)
    theirs = CLIPImageProcessor()(images=picture, return_tensors="pt").pixel_values
    ours = preprocess(torch.from_numpy(np.array(picture))[None] / 255, 224, crop=True)
    apart = (ours - theirs).abs() * torch.tensor(STD)[:, None, None] * 255
    assert apart.mean() < 1
    assert apart.max() < 60
