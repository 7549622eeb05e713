"""The smallest images and the strangest masks through the inpainting nodes: a sensible image or one sentence."""

import numpy as np
import pytest
import sd2_family as sd2
import torch
from helpers import call, picture, prompts, sample
from scipy import ndimage
from sd2_family.pipeline import masks

SIZES = [(1, 1), (1, 40), (40, 1), (7, 9), (60, 61)]
NAN, INFINITE = float("nan"), float("inf")


def spots(height, width, count=7, *, shift=0):
    """A mask of `count` disjoint single pixels, fewer where there is no room."""
    mask = torch.zeros(1, height, width)
    for index in range(count):
        mask[0, (9 * index + shift) % height, (9 * index) % width] = 1
    return mask


MASKS = {
    "all": lambda height, width: torch.ones(1, height, width),
    "nothing": lambda height, width: torch.zeros(1, height, width),
    "no mask": lambda height, width: torch.zeros(1, 64, 64),  # of Load Image
    "one pixel": lambda height, width: spots(height, width, 1),
    "seven pixels": spots,
    "faint": lambda height, width: torch.full((1, height, width), 0.3),
    "another size": lambda height, width: torch.ones(1, 13, 29),
    "a single value": lambda height, width: torch.ones(1, 1, 1),
    "NaN": lambda height, width: torch.full((1, height, width), NAN),
    "infinite": lambda height, width: torch.full((1, height, width), INFINITE),
    "negative": lambda height, width: -torch.ones(1, height, width),
}
EMPTY = ("nothing", "no mask", "NaN", "negative")


@pytest.fixture
def inpaint(load):
    return load("v2-inpaint")


def painted(file, image, mask, *, fill="original"):
    """Encode, sample and decode."""
    prepared = call("SD2VAEEncodeForInpaint", *prompts(file), file.vae, image, mask, fill)
    return call("SD2VAEDecode", sample(file, *prepared), file.vae)[0]


def whole(file, image, mask):
    """The graph of the templates."""
    where, blend = call("SD2MaskPreprocess", mask, image=image)
    return call("SD2Composite", image, painted(file, image, where), blend)[0]


def cropped(holes):
    """The same around a crop."""

    def run(file, image, mask):
        size = {"target_width": 64, "target_height": 64}
        images, where, stitches = call("SD2InpaintCrop", image, mask, **size, holes=holes)
        repainted = [painted(file, *crop) for crop in zip(images, where, strict=True)]
        results = call("SD2InpaintStitch", stitches, repainted, [True], ["membrane"])[0]
        return torch.cat(results)

    return run


PATHS = {"whole": whole, "together": cropped("together"), "one by one": cropped("one by one")}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_repaints_what_it_marks_and_nothing_else(inpaint, size, mask):
    image, given = picture(*size), MASKS[mask](*size)
    before = given.clone()
    result = whole(inpaint, image, given)
    assert torch.equal(given.nan_to_num(), before.nan_to_num())
    assert result.shape == image.shape
    assert result.isfinite().all()
    marked, _ = call("SD2MaskPreprocess", given, image=image)
    assert torch.equal(result[marked == 0], image[marked == 0])
    assert bool(marked.any()) == (mask not in (*EMPTY, "faint"))
    assert not marked.any() or not torch.equal(result[marked == 1], image[marked == 1])


@pytest.mark.parametrize("path", ["together", "one by one"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (60, 61)], ids=str)
@pytest.mark.parametrize("mask", ["all", "nothing", "seven pixels", "another size"])
def test_crops_of_every_mask(inpaint, path, size, mask):
    image, given = picture(*size), MASKS[mask](*size)
    result = PATHS[path](inpaint, image, given)
    assert result.shape == image.shape
    assert result.isfinite().all()
    marked = masks.snap(masks.normalize(given, size))
    assert torch.equal(result[marked == 0], image[marked == 0])
    assert bool(marked.any()) == (mask not in EMPTY)
    assert not marked.any() or not torch.equal(result[marked == 1], image[marked == 1])


@pytest.fixture(scope="module")
def model(tiny_models):
    return sd2.load(str(tiny_models.file("v2-inpaint")))


@pytest.mark.parametrize(
    ("size", "mask", "context"),
    [
        *((size, mask, 0) for size in SIZES[:4] for mask in ("all", "nothing", "seven pixels", "another size", "NaN")),
        ((1, 40), "one pixel", 1.2),  # at the model's own 512 pixels
    ],
)
def test_the_python_entry(model, size, mask, context):
    image, given = (picture(*size) * 255).round() / 255, MASKS[mask](*size)
    (result,) = model.inpaint(image, given, "a cat", seed=1, steps=2, context=context).images
    assert result.size == size[::-1]
    kept = (masks.normalize(given, size) == 0)[0].numpy()
    assert np.array_equal(np.asarray(result)[kept], (255 * image[0].numpy()).round().astype(np.uint8)[kept])


@pytest.mark.parametrize("path", ["whole", "together"])
@pytest.mark.parametrize(
    ("images", "given", "sentence"),
    [
        (4, 1, None),
        (1, 4, None),
        (4, 4, None),
        (4, 3, "there are 3 masks for 4 images, so they are used again from the first"),
    ],
)
def test_batches_of_other_counts(inpaint, path, images, given, sentence, caplog):
    image = picture(24, 32, images)
    mask = torch.cat([spots(24, 32, 2, shift=5 * index) for index in range(given)])
    result = PATHS[path](inpaint, image, mask)
    assert len(result) == max(images, given)
    for index, one in enumerate(result):
        before, marked = image[index % images], mask[index % given]
        assert torch.equal(one[marked == 0], before[marked == 0])
        assert not torch.equal(one[marked == 1], before[marked == 1])
    if path == "whole":
        assert [line for line in caplog.messages if "masks for" in line] == [sentence] * bool(sentence)


def test_seven_holes_one_by_one_are_each_repainted(inpaint):
    image, mask = picture(60, 61, 2), torch.cat([spots(60, 61), spots(60, 61, shift=3)])
    images, _, _ = call("SD2InpaintCrop", image, mask, target_width=64, target_height=64, holes="one by one")
    assert len(images) == 14
    result = PATHS["one by one"](inpaint, image, mask)
    assert torch.equal(result[mask == 0], image[mask == 0])
    assert (result[mask == 1] != image[mask == 1]).any(1).all()


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (torch.zeros(1, 9, 9), "the mask is empty, so nothing is repainted; draw one"),
        (torch.full((1, 9, 9), 0.3), r"the mask never reaches 0.5 (its maximum is 0.30), so nothing is repainted"),
        (torch.ones(1, 9, 9), "the mask covers the whole image, so all of it is repainted; invert the mask"),
        (torch.cat([spots(9, 9), torch.zeros(2, 9, 9)]), "masks 2, 3 of 3 are empty or below 0.5 everywhere"),
        (torch.cat([torch.zeros(1, 9, 9), spots(9, 9)]), "mask 1 of 2 is empty or below 0.5 everywhere"),
        (spots(9, 9), None),
    ],
)
def test_odd_masks_are_said_once(inpaint, mask, sentence, caplog):
    call("SD2VAEEncodeForInpaint", *prompts(inpaint), inpaint.vae, picture(9, 9), mask)
    assert len(caplog.messages) == (sentence is not None)
    assert all(sentence in line for line in caplog.messages)


@pytest.mark.parametrize("holes", ["together", "one by one"])
def test_a_crop_of_an_empty_mask_is_said_once(holes, caplog):
    call("SD2InpaintCrop", picture(9, 9), torch.zeros(1, 9, 9), holes=holes)
    assert len(caplog.messages) == 1
    assert "the mask is empty, so the crop has nothing to repaint" in caplog.messages[0]


def test_an_empty_mask_in_a_batch_does_not_enlarge_the_other_crops():
    mask = torch.zeros(3, 200, 300)
    mask[0, 20:40, 30:50] = mask[2, 100:120, 200:220] = 1
    size = {"target_width": 64, "target_height": 64}
    _, (cut,), (stitch,) = call("SD2InpaintCrop", picture(200, 300, 3), mask, **size)
    assert {(box.width, box.height) for box in stitch.boxes} == {(24, 24)}  # 1.2 times the mask
    assert [bool(one.any()) for one in cut] == [True, False, True]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("image", "mask", "sentence"),
    [
        (NAN * torch.ones(1, 9, 9, 3), torch.ones(1, 9, 9), "the image contains NaN or infinity; load the checkpoint"),
        (INFINITE * torch.ones(1, 9, 9, 3), torch.ones(1, 9, 9), "the image contains NaN or infinity"),
        (torch.ones(0, 9, 9, 3), torch.ones(1, 9, 9), r"an IMAGE of shape \[0, 9, 9, 3\] has no pixels"),
        (torch.ones(1, 9, 9, 3), torch.ones(0, 9, 9), r"a MASK of shape \[0, 9, 9\] has no pixels"),
        (torch.ones(1, 9, 9, 3), torch.ones(9), r"a MASK of shape \[9\] has no pixels"),
        (torch.ones(9, 9, 3), torch.ones(1, 9, 9), r"an IMAGE is \[batch, height, width, 3\], but this one is"),
    ],
)
def test_what_cannot_be_painted_is_one_sentence(inpaint, path, image, mask, sentence):
    with pytest.raises(ValueError, match=sentence):
        PATHS[path](inpaint, image, mask)


# strokes


@pytest.mark.parametrize("offset", range(8))
@pytest.mark.parametrize("drawn", ["dot", "stroke"])
@pytest.mark.parametrize("prepare", ["mask", "preprocess"])
def test_a_dot_and_a_thin_stroke_reach_the_latent_mask(inpaint, drawn, offset, prepare):
    mask = torch.zeros(1, 64, 72)
    if drawn == "dot":
        mask[0, 24 + offset, 32 + 3 * offset % 8] = 1
    else:
        for x in range(72):  # 2 pixels wide, slanted
            mask[0, 10 + offset + x // 3 : 12 + offset + x // 3, x] = 1
    image = picture(64, 72)
    where = call("SD2MaskPreprocess", mask, image=image)[0] if prepare == "preprocess" else mask
    positive, _, latent = call("SD2VAEEncodeForInpaint", *prompts(inpaint), inpaint.vae, image, where)
    touched = ndimage.maximum_filter(mask[0].numpy(), size=8, origin=-4)[::8, ::8]  # of each 8 x 8 block
    assert touched.any()
    for found in (latent["noise_mask"], positive[0][1]["concat_mask"]):
        assert np.array_equal(found[0, 0].numpy(), touched)
    seen = sample(inpaint, positive, positive, latent, denoise=0.6)["samples"]
    changed = (seen - latent["samples"]).abs().amax((0, 1)) > 1e-4
    assert np.array_equal(changed.numpy(), touched > 0)


@pytest.mark.parametrize("node", ["SD2KSampler", "mask of pixels"])
def test_a_pixel_mask_of_another_node_reaches_the_sampler(load, node):
    file = load("v2-base")
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 29, 45] = 1  # as Set Latent Noise Mask leaves it
    latent = {"samples": torch.ones(1, 4, 8, 8), "noise_mask": mask if node == "SD2KSampler" else mask[0]}
    changed = sample(file, *prompts(file), latent, denoise=0.7)["samples"] != 1
    assert changed[0, :, 3, 5].all()
    assert changed.sum() == 4


@pytest.mark.parametrize("size", [(61, 61), (64, 50), (90, 75), (200, 61), (61, 200)])
def test_dots_survive_any_resizing(size):
    lost = [
        (row, column)
        for row in range(0, 60, 7)
        for column in range(0, 60, 7)
        if not (masks.normalize(_dot(60, row, column), size) >= 0.5).any()
    ]
    assert lost == []


def _dot(side, row, column):
    mask = torch.zeros(1, side, side)
    mask[0, row, column] = 1
    return mask


def test_enlarging_stays_smooth():
    ramp = torch.linspace(0, 1, 20).expand(1, 16, 20)
    enlarged = masks.normalize(ramp, (16, 57))
    expected = torch.nn.functional.interpolate(ramp[:, None], size=(16, 57), mode="bilinear")[:, 0]
    assert (enlarged - expected).abs().max() < 1 / 19 / 2  # at most half a step of the ramp, where it crosses 0.5
    assert (enlarged != expected).any(1).sum() <= 2
