"""Inpainting from image to image: ten edits in a row, several holes, one mask for many images and many for one."""

import io

import numpy as np
import pytest
import sd2_family as sd2
import torch
from helpers import call
from PIL import Image
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK
from sd2_family.nodes.sample_image import SAMPLES
from sd2_family.pipeline.lama_masks import covering

EDITS = 10
SIDE = 96


def as_png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return Image.open(file)


@pytest.mark.parametrize("context", [0.0, 2.0])
def test_ten_edits_in_a_row_leave_what_no_mask_covers(context):
    model = sd2.load("sd2-demo-inpaint.safetensors")
    first = image = Image.open(SAMPLES / "beach.png").convert("RGB")
    covered = np.zeros((image.height, image.width), bool)
    for seed in range(EDITS):
        mask = covering(seed, image.width, image.height, coverage=0.1, kind="mixed") > 0
        covered |= mask
        before = np.asarray(image)
        drawn = Image.fromarray(np.uint8(mask) * 255)
        image = as_png(model.inpaint(image, drawn, "a boat", seed=seed, steps=2, context=context).image)
        assert np.array_equal(np.asarray(image)[~mask], before[~mask])
        assert not np.array_equal(np.asarray(image)[mask], before[mask])
    assert 0.1 < (~covered).mean() < 0.9
    assert np.array_equal(np.asarray(image)[~covered], np.asarray(first)[~covered])


@pytest.fixture
def repaint(load):
    """repaint(image, mask, holes, scale): what the nodes of the inpainting workflows give, through a crop if holes."""
    file = load("v2-inpaint")
    (text,) = call("SD2CLIPTextEncode", file.clip, "a boat")

    def painted(image, mask):
        positive, negative, latent = call("SD2VAEEncodeForInpaint", text, text, file.vae, image, mask)
        (latent,) = call("SD2KSampler", file.model, 1, 2, 1.0, "ddim", "ldm", positive, negative, latent)
        return call("SD2VAEDecode", latent, file.vae, 0)[0]

    def repaint(image, mask, holes=None, scale=1.0):
        mask, edge = call("SD2MaskPreprocess", mask)
        if holes is None:
            return call("SD2Composite", image, painted(image, mask), edge)[0]
        size = {"target_width": 64, "target_height": 64, "holes": holes}
        crops, masks, stitches = call("SD2InpaintCrop", image, mask, 2.0, **size, blend_mask=edge)
        results = [painted(*pair) for pair in zip(crops, masks, strict=True)]
        if scale != 1:
            results = [STOCK["ImageScaleBy"]().upscale(one, "lanczos", scale)[0] for one in results]
        (stitched,) = call("SD2InpaintStitch", stitches, results, [False], ["membrane"])
        return torch.cat(stitched)

    return repaint


def eight_bits(count):
    return torch.randint(0, 256, (count, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(3)) / 255


def squares(*corners, side=10):
    mask = torch.zeros(1, SIDE, SIDE)
    for top, left in corners:
        mask[:, top : top + side, left : left + side] = 1
    return mask


def bytes_of(image):
    """The values of an 8-bit file."""
    return (255 * image).round().to(torch.uint8)


def check(before, mask, after):
    """Nothing outside the mask changed, and every hole did."""
    before, after = bytes_of(before), bytes_of(after)
    for index, one in enumerate(after):
        old, hole = before[index % len(before)], mask[index % len(mask)] > 0
        assert torch.equal(one[~hole], old[~hole])
        assert (one[hole] != old[hole]).any(1).float().mean() > 0.9


WAYS = [None, "together", "one by one"]
SEVEN = [(8 + 28 * (n // 3), 6 + 30 * (n % 3)) for n in range(7)]


@pytest.mark.parametrize("holes", WAYS)
def test_seven_disjoint_holes(repaint, holes):
    image, mask = eight_bits(1), squares(*SEVEN)
    result = repaint(image, mask, holes)
    assert result.shape == image.shape
    check(image, mask, result)
    for corner in SEVEN:
        assert not torch.equal(result * squares(corner)[..., None], image * squares(corner)[..., None])


@pytest.mark.parametrize("holes", WAYS)
@pytest.mark.parametrize(("images", "masks"), [(4, 1), (1, 4)])
def test_one_for_many(repaint, holes, images, masks):
    image = eight_bits(images)
    mask = torch.cat([squares((10 + 20 * n, 15 + 15 * n), side=14) for n in range(masks)])
    result = repaint(image, mask, holes)
    if (holes, masks) == ("one by one", 4):  # four edits of one image, one after another
        assert len(result) == 1
        check(image, mask.amax(0, keepdim=True), result)
    else:
        assert len(result) == 4
        check(image, mask, result)


@pytest.mark.parametrize("scale", [2.0, 4.0])
def test_a_crop_may_be_upscaled_before_it_is_stitched(repaint, scale):
    image, mask = eight_bits(1), squares((30, 40), side=16)
    plain, upscaled = (repaint(image, mask, "together", by) for by in (1.0, scale))
    check(image, mask, upscaled)
    assert (plain - upscaled).abs().max() < 0.05  # two resamplings; another place or content differs by far more
