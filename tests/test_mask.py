"""Masks: what the nodes make of them, against definitions written out pixel by pixel."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from sd2_family import NODE_CLASS_MAPPINGS
from sd2_family.pipeline import masks
from sd2_family.training.random_masks import random_mask


def preprocess(mask, **widgets):
    return NODE_CLASS_MAPPINGS["SD2MaskPreprocess"]().process(mask, **widgets)


def dot(size=33):
    mask = torch.zeros(1, size, size)
    mask[0, size // 2, size // 2] = 1
    return mask


@pytest.mark.parametrize("column", range(8))
@pytest.mark.parametrize("width", [1, 2, 6])
def test_thin_strokes_mark_every_latent_they_touch(column, width):
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 24 + column : 24 + column + width] = 1
    latent = masks.to_latent(mask, 8, 8)
    touched = {x // 8 for x in range(24 + column, 24 + column + width)}
    assert latent.shape == (1, 1, 8, 8)
    assert [bool(latent[0, 0, :, x].all()) for x in range(8)] == [x in touched for x in range(8)]
    assert set(latent.unique().tolist()) == {0.0, 1.0}


def test_thin_strokes_survive_a_smaller_picture():
    mask = torch.zeros(1, 128, 128)
    mask[:, :, 77] = 1
    mask, _ = preprocess(mask, image=torch.zeros(1, 50, 60, 3))
    assert mask.shape == (1, 50, 60)
    assert mask.amax(2).min() == 1


@pytest.mark.parametrize("px", [6, -6])
def test_grow_6_is_6_pixels_in_every_direction(px):
    drawn = np.zeros((60, 70), bool)
    drawn[20:40, 20:50] = True
    far = ndimage.distance_transform_edt(~drawn if px > 0 else drawn)  # to the nearest pixel of the other kind
    expected = far <= 6 if px > 0 else far > 6
    mask, blend = preprocess(torch.from_numpy(drawn)[None], grow=px)
    assert np.array_equal(mask[0].numpy() > 0, expected)
    assert torch.equal(blend, mask)


@pytest.mark.parametrize("radius", [1, 2, 5, 12, 40])
def test_grow_is_a_disc(radius):
    y, x = torch.meshgrid(*[torch.arange(33) - 16] * 2, indexing="ij")
    assert torch.equal(masks.grow(dot(), radius)[0], (x**2 + y**2 <= radius**2).float())


def test_grow_is_the_same_on_every_side():
    torch.manual_seed(0)
    mask = torch.rand(2, 21, 30)
    grown = masks.grow(mask, 4)
    for axes in ((1,), (2,), (1, 2)):
        assert torch.equal(masks.grow(mask.flip(axes), 4).flip(axes), grown)
    assert torch.equal(masks.grow(mask.mT, 4).mT, grown)


def test_negative_grow_shrinks():
    square = torch.zeros(1, 20, 20)
    square[:, 5:15, 5:15] = 1
    shrunk = masks.grow(square, -3)
    assert shrunk.sum() == 4 * 4
    assert shrunk[0, 8:12, 8:12].all()
    assert masks.grow(torch.ones(1, 9, 9), -3).all()  # the picture's border is no edge of the mask


def test_masks_from_jpeg_files_are_snapped():
    mask = torch.full((1, 16, 16), 0.01)
    mask[:, 4:8] = 0.98
    for threshold in (0.0, 0.5, 1.0):
        clean, _ = preprocess(mask, threshold=threshold)
        assert torch.equal(clean, (mask > 0.5).float())


def test_threshold_zero_keeps_it_soft():
    ramp = torch.linspace(0, 1, 64).expand(1, 8, 64)
    soft, _ = preprocess(ramp, threshold=0.0)
    assert torch.equal(soft[:, :, 2:-2], ramp[:, :, 2:-2])  # beyond, near 0 and near 1 are snapped
    hard, _ = preprocess(ramp, threshold=0.5)
    assert torch.equal(hard, (ramp >= 0.5).float())


@pytest.mark.parametrize("invert", [False, True])
def test_high_pass_and_stabilize_act_on_soft_masks_before_all_but_invert(invert):
    ramp = torch.linspace(0, 1, 101).expand(1, 4, 101)
    given = ramp.flip(2) if invert else ramp
    soft, _ = preprocess(given, threshold=0.0, high_pass=0.1, stabilize=0.3, invert=invert)
    value = ramp.numpy()
    expected = np.where(value <= 0.1, 0, np.where(value >= 0.7, 1, value))
    sure = np.minimum(abs(value - 0.1), abs(value - 0.7)) > 1e-4  # rounding decides on the limits themselves
    assert np.allclose(soft.numpy()[sure], expected[sure], atol=1e-6)
    hard, _ = preprocess(given, threshold=0.5, high_pass=0.6, stabilize=0.3, invert=invert)
    assert torch.equal(hard[0, 0, 65:], torch.ones(36))
    assert not hard[0, 0, :60].any()


def test_what_high_pass_drops_does_not_grow():
    mask = dot() * 0.08
    mask[0, 2, 2] = 0.5
    grown, _ = preprocess(mask, threshold=0.0, high_pass=0.1, grow=2)
    assert grown.amax() == 0.5
    assert not grown[0, 14:19, 14:19].any()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "sides", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 3, 0, 0), (0, 0, 5, 0), (0, 0, 0, 17), (2, 7, 0, 64)]
)
def test_extend_adds_pixels_to_each_side(sides, seed):
    mask = torch.rand(2, 30, 40, generator=torch.Generator().manual_seed(seed)) ** 20
    left, top, right, bottom = sides
    (extended,) = NODE_CLASS_MAPPINGS["SD2MaskExtend"]().extend(mask, *sides)
    # a dilation by a box whose origin is the pixel itself
    box = np.zeros((2 * max(top, bottom) + 1, 2 * max(left, right) + 1), bool)
    y, x = (length // 2 for length in box.shape)
    box[y - top : y + bottom + 1, x - left : x + right + 1] = True
    # of ndimage, footprint[y, x] looks at the pixel there: what comes from above looks up
    looked = [ndimage.maximum_filter(one, footprint=box[::-1, ::-1], mode="constant") for one in mask.numpy()]
    assert np.array_equal(extended.numpy(), np.stack(looked))


def test_extending_leaves_the_input_and_the_mask_of_no_mask_alone():
    mask = dot()
    before = mask.clone()
    NODE_CLASS_MAPPINGS["SD2MaskExtend"]().extend(mask, 3, 3, 3, 3)
    assert torch.equal(mask, before)
    (none,) = NODE_CLASS_MAPPINGS["SD2MaskExtend"]().extend(torch.zeros(1, 64, 64), 900, 0, 0, 9)
    assert masks.is_placeholder(none)


@pytest.mark.parametrize(
    "shape", [(40, 48), (1, 40, 48), (3, 40, 48), (2, 1, 40, 48), (2, 40, 48, 3), (1, 1, 1, 40, 48), (1, 200, 7)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bool, torch.uint8])
def test_any_rank_dtype_and_size(shape, dtype):
    mask, blend = preprocess(torch.ones(shape).to(dtype), image=torch.zeros(1, 24, 32, 3))
    assert mask.shape[1:] == blend.shape[1:] == (24, 32)
    assert mask.dtype == blend.dtype == torch.float32
    assert mask.shape[0] == {(3, 40, 48): 3, (2, 1, 40, 48): 2, (2, 40, 48, 3): 2}.get(shape, 1)
    assert mask.all()


def test_placeholder_of_load_image_is_no_mask():
    for invert in (False, True):
        mask, blend = preprocess(torch.zeros(1, 64, 64), image=torch.zeros(1, 100, 80, 3), invert=invert, grow=5)
        assert mask.shape == (1, 100, 80)
        assert not mask.any()
        assert not blend.any()


def test_invert():
    mask, _ = preprocess(dot(), invert=True)
    assert torch.equal(mask, 1 - dot())


def test_fill_holes_fills_an_outline_one_pixel_wide():
    y, x = torch.meshgrid(*[torch.arange(41) - 20] * 2, indexing="ij")
    disc = x**2 + y**2 <= 15**2
    outline = (disc & ~(masks.grow(disc[None].float(), -1)[0] > 0)).float()[None]
    assert outline[0, 20, 20] == 0
    filled, _ = preprocess(outline, fill_holes=True)
    assert torch.equal(filled[0], disc.float())


def test_fill_holes_leaves_open_shapes():
    spiral = torch.zeros(1, 30, 30)
    spiral[0, 5:25, 5] = spiral[0, 5, 5:25] = spiral[0, 24, 5:25] = spiral[0, 10:25, 24] = 1  # open at the right
    filled, _ = preprocess(spiral, fill_holes=True)
    assert torch.equal(filled, spiral)


@pytest.mark.parametrize("blur", [1, 2, 7, 16])
def test_blend_mask_fades_inside_the_mask_only(blur):
    mask = torch.zeros(1, 90, 100)
    mask[:, :, 20:] = 1  # up to the image's right border, which is no edge
    sampling, blend = preprocess(mask, blur=blur)
    assert torch.equal(sampling, mask)
    row = blend[0, 45]
    assert not row[:20].any()
    assert torch.allclose(row[20 : 20 + blur], torch.arange(1, blur + 1) / (blur + 1), atol=1e-6)  # a ramp
    assert (row[20 + blur :] == 1).all()


@pytest.mark.parametrize("width", [1, 2, 3, 6])
def test_thin_strokes_do_not_fade_away(width):
    mask = torch.zeros(1, 60, 60)
    mask[:, :, 30 : 30 + width] = 1
    _, blend = preprocess(mask, blur=16)
    assert (blend[0, :, 30 : 30 + width].amax(1) == 1).all()
    assert not blend[mask == 0].any()


@pytest.mark.parametrize("blur", [0, 5])
@pytest.mark.parametrize("seed", range(4))
def test_neither_mask_exceeds_a_drawn_one(blur, seed):
    drawn = torch.from_numpy(random_mask(np.random.default_rng(seed), 64, [(10, 10, 40, 40)]))[None]
    for mask in preprocess(drawn, blur=blur):
        assert torch.equal(mask > 0, drawn > 0)
    soft = drawn * 0.4
    assert (preprocess(soft, threshold=0.0, blur=blur)[1] <= soft).all()


def test_the_input_is_left_alone():
    mask = torch.rand(1, 32, 32)
    before = mask.clone()
    preprocess(mask, threshold=0.0, grow=3, blur=4, fill_holes=True, invert=True)
    assert torch.equal(mask, before)


@pytest.mark.parametrize("kind", ["mixed", "strokes", "boxes"])
@pytest.mark.parametrize("coverage", [0.02, 0.25, 0.9])
def test_random_masks_cover_what_they_are_to_and_repeat(kind, coverage):
    drawn = []
    for seed in range(6):
        (mask,) = NODE_CLASS_MAPPINGS["SD2RandomMask"]().draw(200, 120, seed, coverage, kind)
        assert mask.shape == (1, 120, 200)
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        assert mask.mean() == pytest.approx(coverage, abs=0.03)
        assert torch.equal(mask, NODE_CLASS_MAPPINGS["SD2RandomMask"]().draw(200, 120, seed, coverage, kind)[0])
        drawn.append(mask)
    assert not any(torch.equal(one, other) for i, one in enumerate(drawn) for other in drawn[:i])
    with pytest.raises(ValueError, match="kind is 'dots'; choose one of mixed, strokes, boxes"):
        NODE_CLASS_MAPPINGS["SD2RandomMask"]().draw(64, 64, kind="dots")
