"""The depth estimator against transformers' DPT hybrid with the same weights, and the size it is shown pictures at."""

import pytest
import torch
from diffusers_keys import transformers_depth
from sd2_family.models.midas import network_size
from tiny import tiny_depth


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (64, 96), (128, 32)])
def test_same_depth_as_transformers(size):
    network = tiny_depth()
    model = transformers_depth(network)
    model.dpt.embeddings.image_size = size  # it takes one size, and thinks that a square, but has the code for others
    neck = model.neck.forward
    model.neck.forward = lambda maps, *_: neck(maps, size[0] // 16, size[1] // 16)
    picture = 2 * torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) - 1
    with torch.no_grad():
        ours, theirs = network(picture), model(picture).predicted_depth
    assert theirs.std() > 0.3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((512, 512), (384, 384)),
        ((768, 512), (576, 384)),  # the nearer of the scales 0.5 and 0.75
        ((1080, 1920), (384, 672)),  # 682.7 is 21.3 times 32
        ((300, 200), (384, 256)),  # 1.28 is nearer to 1 than 1.92
        ((100, 400), (96, 384)),
        ((16, 3000), (32, 384)),  # at least one
    ],
)
def test_size_of_the_picture_shown(size, shown):
    """By hand from the authors' rule: scale as little as possible to 384, then the nearest multiples of 32."""
    assert network_size(*size, 384) == shown
    assert network_size(*size[::-1], 384) == shown[::-1]


def test_any_picture_is_brought_to_that_size():
    network = tiny_depth()
    picture = torch.rand(1, 3, 100, 64) * 2 - 1
    assert network.estimate(picture).shape == (1, 96, 64)
    fitting = picture[:, :, :64]
    with torch.no_grad():
        assert torch.equal(network.estimate(fitting), network(fitting))
