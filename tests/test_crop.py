"""Crop and stitch: where windows lie, what comes back, one image with many masks and many images with one."""

import numpy as np
import pytest
import torch
from helpers import call, picture
from sd2_family.pipeline import crop
from sd2_family.pipeline.crop import Window

SIZE = (64, 64)


def hole(height, width, *boxes):
    mask = torch.zeros(1, height, width)
    for top, left, high, wide in boxes:
        mask[:, top : top + high, left : left + wide] = 1
    return mask


def eight_bits(height, width, count=1):
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator) / 255


@pytest.mark.parametrize(
    ("shape", "where", "expected"),
    [
        ((200, 300), (90, 140, 20, 20), (119, 69, 62, 62)),  # 20 * 1.5 + 2 * 16 around (150, 100)
        ((200, 300), (0, 0, 20, 20), (0, 0, 62, 62)),  # at a corner: moved inside
        ((200, 300), (180, 280, 20, 20), (238, 138, 62, 62)),
        ((200, 300), (50, 100, 40, 100), (59, 0, 182, 182)),  # grown to a square
        ((100, 300), (30, 100, 40, 100), (59, 0, 182, 100)),  # as high as the image is
        ((40, 40), (10, 10, 20, 20), (0, 0, 40, 40)),
        ((1, 1), (0, 0, 1, 1), (0, 0, 1, 1)),
    ],
)
def test_where_a_window_lies(shape, where, expected):
    (one,) = crop.crop(eight_bits(*shape), hole(*shape, where), Window(size=SIZE, factor=1.5, margin=16))
    (box,) = one.stitch.boxes
    assert (box.x, box.y, box.width, box.height) == expected


@pytest.mark.parametrize(
    ("shape", "where", "multiple", "expected"),
    [
        ((200, 300), (90, 140, 20, 20), 8, (64, 64)),
        ((100, 300), (30, 100, 40, 100), 8, (48, 88)),  # 4096 pixels at 100 : 182
        ((100, 300), (30, 100, 40, 100), 32, (32, 96)),
        ((16, 400), (4, 10, 4, 380), 8, (16, 320)),
        ((400, 1), (0, 0, 400, 1), 8, (1280, 8)),
    ],
)
def test_the_size_of_a_crop(shape, where, multiple, expected):
    window = Window(size=SIZE, factor=1.5, margin=16, multiple=multiple)
    (one,) = crop.crop(eight_bits(*shape), hole(*shape, where), window)
    assert tuple(one.image.shape[1:3]) == tuple(one.mask.shape[1:]) == expected
    assert one.mask.max() == 1


def test_the_window_holds_the_context_mask():
    mask, context = hole(200, 300, (90, 140, 20, 20)), hole(200, 300, (90, 20, 4, 4))
    (one,) = crop.crop(eight_bits(200, 300), mask, Window(size=SIZE, factor=1.0), context_mask=context)
    (box,) = one.stitch.boxes
    assert (box.x, box.width) == (20, 140)
    assert one.mask.sum() < 0.1 * one.mask.numel()


def test_a_crop_shows_its_window():
    image = eight_bits(200, 300)
    mask = hole(200, 300, (90, 140, 32, 32))
    (one,) = crop.crop(image, mask, Window(size=SIZE, factor=2.0, margin=0))
    assert torch.equal(one.image, image[:, 74:138, 124:188])  # 64 pixels stay 64
    assert torch.equal(one.mask, mask[:, 74:138, 124:188])


# ---- stitching


@pytest.mark.parametrize("size", [(64, 64), (37, 91), (256, 256)])
@pytest.mark.parametrize("boxes", [[(90, 140, 20, 20)], [(0, 0, 9, 9)], [(0, 0, 200, 300)], [(5, 5, 2, 290)], []])
def test_no_pixel_outside_the_mask_changes(boxes, size):
    image, mask = eight_bits(200, 300), hole(200, 300, *boxes)
    (one,) = crop.crop(image, mask, Window(size=SIZE))
    painted = picture(*size)  # upscaled in between, or not
    (stitched,) = crop.stitch_all([one.stitch], [painted], color_match=True)
    outside = mask[0] == 0
    assert torch.equal(stitched[:, outside], image[:, outside])
    assert not boxes or not torch.equal(stitched, image)


def test_an_unchanged_crop_of_its_own_size_gives_the_image():
    image, mask = eight_bits(200, 300), hole(200, 300, (90, 140, 32, 32))
    (one,) = crop.crop(image, mask, Window(size=SIZE, factor=2.0, margin=0))
    (stitched,) = crop.stitch_all([one.stitch], [one.image], color_match=False)
    assert (stitched - image).abs().max() < 1e-6


@pytest.mark.parametrize(("images", "masks"), [(1, 4), (4, 1), (3, 3)])
def test_one_for_many(images, masks):
    image = eight_bits(120, 160, images)
    mask = torch.cat([hole(120, 160, (10 + 20 * n, 20 + 25 * n, 12, 10 + n)) for n in range(masks)])
    (one,) = crop.crop(image, mask, Window(size=SIZE))
    count = max(images, masks)
    assert one.image.shape == (count, 64, 64, 3)
    (stitched,) = crop.stitch_all([one.stitch], [torch.rand_like(one.image)], color_match=False)
    for index in range(count):
        before, where = image[index % images], mask[index % masks] > 0
        assert torch.equal(stitched[index][~where], before[~where])
        assert not torch.equal(stitched[index][where], before[where])


def test_seven_holes_one_by_one():
    boxes = [(10 + 25 * (n // 4), 10 + 35 * (n % 4), 8, 9) for n in range(7)]
    image, mask = eight_bits(120, 160), hole(120, 160, *boxes)
    crops = crop.crop_one_by_one(image, mask, Window(size=SIZE, margin=4))
    assert len(crops) == 7
    assert all(box.width < 30 for one in crops for box in one.stitch.boxes)
    painted = [torch.full_like(one.image, n / 10) for n, one in enumerate(crops)]
    (stitched,) = crop.stitch_all([one.stitch for one in crops], painted, color_match=False, blend="none")
    assert torch.equal(stitched[:, mask[0] == 0], image[:, mask[0] == 0])
    inside = [stitched[0, top + 4, left + 4, 0].item() for top, left, _, _ in boxes]
    assert np.allclose(inside, [n / 10 for n in range(7)], atol=1e-6)


def test_pixels_that_touch_at_a_corner_are_one_hole():
    mask = torch.eye(20)[None]
    assert len(crop.crop_one_by_one(eight_bits(20, 20), mask, Window(size=SIZE))) == 1


def test_a_blend_mask_goes_to_the_nearest_hole():
    mask = hole(60, 100, (20, 10, 10, 10), (20, 70, 10, 10))
    blend = hole(60, 100, (16, 6, 18, 18), (16, 66, 18, 18))
    shares = [may_change for _, may_change in crop.holes(mask[0], blend[0])]
    assert torch.equal(shares[0] + shares[1], blend[0])
    assert shares[0][:, 50:].sum() == shares[1][:, :50].sum() == 0


def test_an_empty_mask_one_by_one_is_the_whole_image():
    (one,) = crop.crop_one_by_one(eight_bits(40, 60), torch.zeros(1, 40, 60), Window(size=SIZE))
    assert one.stitch.boxes[0].width == 60


# ---- the nodes


def test_the_nodes_take_the_models_own_size(load):
    file, image = load("v2-v"), eight_bits(100, 100)
    mask = hole(100, 100, (40, 40, 20, 20))
    images, masks, records = call("SD2InpaintCrop", image, mask, model=file.model)
    assert images[0].shape == (1, 768, 768, 3)
    assert call("SD2InpaintCrop", image, mask)[0][0].shape == (1, 512, 512, 3)
    (stitched,) = call("SD2InpaintStitch", records, images, [True], ["membrane"])
    assert torch.equal(stitched[0][:, mask[0] == 0], image[:, mask[0] == 0])
    assert masks[0].shape == (1, 768, 768)


def test_crops_without_their_images_are_an_error():
    images, _, records = call("SD2InpaintCrop", eight_bits(40, 40), hole(40, 40, (8, 8, 8, 8)))
    with pytest.raises(ValueError, match="there are 2 crops to stitch and 1 images; connect the images"):
        call("SD2InpaintStitch", records * 2, images, [True], ["membrane"])


def test_several_results_for_one_crop_give_several_images():
    image, mask = eight_bits(100, 100), hole(100, 100, (40, 40, 20, 20))
    (one,) = crop.crop(image, mask, Window(size=SIZE))
    (stitched,) = crop.stitch_all([one.stitch], [torch.rand(3, 64, 64, 3)], color_match=False)
    assert stitched.shape == (3, 100, 100, 3)
    assert torch.equal(stitched[:, mask[0] == 0], image.expand(3, -1, -1, -1)[:, mask[0] == 0])
    assert not torch.equal(stitched[0], stitched[1])


@pytest.mark.parametrize(("side", "expected"), [(1, 16), (8, 16), (20, 24)])
def test_a_dot_is_not_enlarged_to_a_blot(side, expected):
    (one,) = crop.crop(eight_bits(200, 300), hole(200, 300, (90, 140, side, side)), Window(size=SIZE))
    assert one.stitch.boxes[0].width == expected
    assert one.mask.any()


def test_each_image_of_a_batch_has_its_own_context_one_by_one():
    mask = torch.cat([hole(80, 160, (30, 20, 8, 8)), hole(80, 160, (30, 130, 8, 8))])
    context = torch.cat([hole(80, 160, (30, 60, 4, 4)), hole(80, 160, (30, 100, 4, 4))])
    window = Window(size=SIZE, factor=1.0)
    crops = crop.crop_one_by_one(eight_bits(80, 160, 2), mask, window, context_mask=context)
    assert [(one.stitch.boxes[0].x, one.stitch.boxes[0].width) for one in crops] == [(20, 44), (100, 38)]
