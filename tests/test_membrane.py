"""The membrane that hides the edge of a repainted area, against a direct solution, and what it may not touch."""

import time

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from helpers import call, picture
from sd2_family.pipeline import masks, membrane
from sd2_family.pipeline.blend import BLENDS, composite
from sd2_family.pipeline.lama_masks import binary, boxes, strokes

STEP = 1 / 255


def hole(seed, size):
    """Random strokes or boxes: [size, size], bool."""
    rng = np.random.default_rng(seed)
    return binary((strokes if seed % 2 else boxes)(rng, size, size)) > 0


def direct(difference, hole, fade):
    """The same equations pixel by pixel, solved as one sparse system in double precision: [H, W, C]."""
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(hole.sum())
    diagonal, right = np.full(hole.sum(), 1 / (fade**2 * hole.sum())), np.zeros((hole.sum(), difference.shape[2]))
    pairs = []
    for here, near in (
        (np.s_[:, 1:], np.s_[:, :-1]),
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[1:], np.s_[:-1]),
        (np.s_[:-1], np.s_[1:]),
    ):
        inside = hole[here]
        i, j = number[here][inside], number[near][inside]
        diagonal[i] += 1
        right[i[j < 0]] += difference[near][inside][j < 0]
        pairs.append((i[j >= 0], j[j >= 0]))
    i, j = (np.concatenate(side) for side in zip(*pairs, strict=True))
    matrix = scipy.sparse.csc_array((-np.ones(len(i)), (i, j)), shape=2 * diagonal.shape) + scipy.sparse.diags_array(
        diagonal
    )
    solved = np.zeros(difference.shape)
    solved[hole] = scipy.sparse.linalg.splu(matrix.tocsc()).solve(right)
    return solved


@pytest.mark.parametrize("seed", range(4))
def test_it_solves_its_equations(seed, monkeypatch):
    """The springs alike strong; a border of noise is harder than any image: deviation 0.15, error 0.1 / 255."""
    monkeypatch.setattr(membrane, "OUTLIER", 1e6)
    inside = hole(seed, 60)
    difference = np.random.default_rng(seed).normal(0.1, 0.15, (60, 60, 3))
    given = torch.from_numpy(inside)[None], torch.from_numpy(difference).float()[None]
    found = membrane._solution(membrane._Border.of(*given), given[0])[0].movedim(0, -1).numpy()
    assert np.abs(found - direct(difference, inside, membrane.FADE))[inside].max() < 0.1 * STEP


def test_a_large_hole_on_blocks_is_close(monkeypatch):
    """Blocks of 4: waves of 10 / 255 along the border, 40 px long, fade into the hole as they should to 2.5 / 255."""
    monkeypatch.setattr(membrane, "OUTLIER", 1e6)
    size = 4 * membrane.FINEST - 200
    inside = hole(1, size)
    x = np.arange(size) * np.pi / 20
    difference = 0.04 * np.sin(x[:, None] + np.cos(x))[..., None]
    found = membrane.membrane(torch.from_numpy(difference).float()[None], torch.from_numpy(inside)[None])[0].numpy()
    assert np.abs(found - direct(difference, inside, membrane.FADE)).max() < 2.5 * STEP


def test_it_meets_the_border_and_stays_inside():
    inside = torch.zeros(1, 40, 50, dtype=torch.bool)
    inside[:, 10:30, 10:40] = True
    correction = membrane.membrane(torch.full((1, 40, 50, 3), 0.1), inside)
    assert not correction[~inside].any()
    assert (correction[0, 10, 11:39] - 0.1).abs().max() < 0.01  # next to the border
    assert 0.01 < correction[0, 20, 25, 0] < 0.09  # and less in the middle


def test_what_disagrees_with_most_of_the_border_does_not_bleed():
    """An object beside the hole, red where everything else is off by 5 / 255: the rim turns red, the rest does not."""
    inside = torch.zeros(1, 64, 64, dtype=torch.bool)
    inside[:, 16:48, 16:48] = True
    difference = torch.full((1, 64, 64, 3), 5 * STEP)
    difference[:, :, :16, 0] = 0.7
    correction = membrane.membrane(difference, inside)[0, 32]
    assert correction[16, 0] > 0.3
    assert correction[26:48].max() < 8 * STEP  # 10 px from the object


def test_holes_of_all_kinds():
    """One pixel, a whole image, an image one pixel wide, nothing, many holes, and a batch of all."""
    holes = torch.zeros(4, 20, 30, dtype=torch.bool)
    holes[0, 3, 4] = True
    holes[1] = True
    holes[2, ::6, ::8] = True
    correction = membrane.membrane(torch.full((4, 20, 30, 3), 0.1), holes)
    assert correction[0, 3, 4, 0] == pytest.approx(0.1, abs=0.02)
    assert not correction[1].any()  # nothing outside to go by
    assert (correction[2][holes[2]] > 0.05).all()
    assert not correction[~holes].any()
    for shape in ((1, 1, 1), (1, 1, 17), (1, 17, 1)):
        line = torch.zeros(shape, dtype=torch.bool)
        line[:, :, -1:] = True
        assert membrane.membrane(torch.full((*shape, 3), 0.1), line).isfinite().all()


def test_each_image_of_a_batch_by_itself():
    inside = torch.stack([torch.from_numpy(hole(seed, 64)) for seed in range(3)])
    difference = torch.randn(3, 64, 64, 3, generator=torch.Generator().manual_seed(0)) * 0.05
    together = membrane.membrane(difference, inside)
    alone = torch.cat([membrane.membrane(difference[i : i + 1], inside[i : i + 1]) for i in range(3)])
    assert (together - alone).abs().max() < 0.2 * STEP  # the grids end elsewhere


def test_a_large_hole_does_not_take_long():
    """0.26 s of one core at 2048 x 2048; four times that here, where others may use its caches."""
    inside = torch.ones(1, 2048, 2048, dtype=torch.bool)
    inside[:, :1] = False
    difference = torch.full((1, 2048, 2048, 3), 0.1)
    started = time.thread_time()
    membrane.membrane(difference, inside)
    assert time.thread_time() - started < 1


# the composite


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_bit_changes_outside_the_mask(blend, dtype):
    original, generated = picture(50, 70, 2).to(dtype), picture(56, 72, 2).to(dtype)
    mask = torch.from_numpy(hole(3, 80)).float()[None, :50, :70]
    _, soft = call("SD2MaskPreprocess", mask, blur=6, image=original)
    result = composite(original, generated, soft, color_match=True, blend=blend)
    assert torch.equal(result[:, mask[0] == 0], original.float()[:, mask[0] == 0])
    assert not torch.equal(result[:, mask[0] == 1], original.float()[:, mask[0] == 1])


def test_a_shift_of_colors_disappears_at_the_edge():
    original = picture(64, 64) * 0.5 + 0.2
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    shifted = (original + torch.tensor([0.05, -0.03, 0.02])).clamp(0, 1)
    edge = (mask - masks.grow(mask, -1))[0] > 0
    errors = {
        blend: composite(original, shifted, mask, color_match=False, blend=blend)[0] - original[0] for blend in BLENDS
    }
    assert errors["none"][edge].abs().max() == pytest.approx(0.05, abs=1e-5)
    assert errors["membrane"][edge].abs().max() < 0.01


def test_a_plain_paste():
    original, generated, mask = picture(20, 20), picture(20, 20).flip(1), torch.zeros(1, 20, 20)
    mask[:, 5:15] = 0.3
    assert torch.equal(
        composite(original, generated, mask, color_match=False, blend="none")[:, 5:15], generated[:, 5:15]
    )
    faded = composite(original, generated, mask, color_match=False, blend="feather")[:, 5:15]
    assert torch.allclose(faded, original[:, 5:15] * 0.7 + generated[:, 5:15] * 0.3, atol=1e-6)
    with pytest.raises(ValueError, match="blend is 'glue'; choose one of membrane, feather, none"):
        composite(original, generated, mask, color_match=False, blend="glue")


def test_a_soft_mask_fades_the_membrane():
    """Through its values, from the corrected image to the original."""
    original, generated = picture(48, 48) * 0.5 + 0.2, picture(48, 48).flip(1) * 0.5 + 0.2
    hard = torch.zeros(1, 48, 48)
    hard[:, 12:36, 12:36] = 1
    soft = masks.feather(hard, 6)
    filled = composite(original, generated, hard, color_match=False)
    faded = composite(original, generated, soft, color_match=False)
    assert torch.equal(faded[soft == 1], filled[soft == 1])
    assert torch.allclose(faded, original.lerp(filled, soft[..., None]), atol=1e-6)
    assert (soft[hard == 1] < 1).any()
