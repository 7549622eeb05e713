"""Several prompts at once: areas, masks, strengths and ranges, against sums written out by hand."""

import pytest
import torch
from helpers import prompts
from sd2_family.pipeline import regions
from sd2_family.pipeline.denoiser import guided_denoiser
from sd2_family.pipeline.regions import Area, Region, combine, place, region_of
from sd2_family.samplers import NoiseSchedule

SCHEDULE = NoiseSchedule()
LATENT = torch.zeros(2, 4, 16, 24)


def region(**options):
    return region_of(options, SCHEDULE, LATENT)


def test_an_area_fades_out_only_inside_the_latent():
    found = region(area=(12, 24, 4, 0), strength=2.0)
    assert found.area == Area(12, 24, 4, 0)
    expected = torch.full((12, 24), 2.0)
    for i in range(3):  # a quarter of 12
        expected[i] *= (i + 1) / 3
    assert torch.allclose(found.weight[0, 0], expected)


def test_an_area_of_shares_is_rounded_and_cut():
    assert region(area=("percentage", 0.5, 0.25, 0.75, 0.9)).area == Area(4, 2, 12, 22)
    assert region(area=("percentage", 0.0, 0.0, 0.0, 0.0)).area == Area(1, 1, 0, 0)


def test_an_area_outside_is_named():
    with pytest.raises(ValueError, match="begins at x 192, y 0, outside the image of 192 x 128"):
        region(area=(8, 8, 0, 24))


def test_a_mask_weighs_every_pixel():
    mask = torch.rand(1, 16, 24, generator=torch.manual_seed(0))
    found = region(mask=mask, mask_strength=0.5, strength=3.0)
    assert found.area is None
    assert torch.allclose(found.weight, 1.5 * mask[:, None].expand(2, 1, 16, 24))


def test_mask_bounds_make_an_area_of_at_least_eight():
    mask = torch.zeros(1, 16, 24)
    mask[0, 3:13, 20] = 1
    found = region(mask=mask, set_area_to_bounds=True)
    assert found.area == Area(10, 4, 3, 20)  # 8 wide, cut at the border
    assert torch.equal(found.weight, found.area.cut(mask)[:, None].expand(2, 1, 10, 4))
    assert region(mask=0 * mask, set_area_to_bounds=True).area == Area(8, 8, 0, 0)


def test_ranges_are_shares_of_the_timesteps():
    found = region(start_percent=0.25, end_percent=0.5)
    assert found.levels.first == pytest.approx(float(SCHEDULE.sigma(0.75 * 999)))
    assert [found.levels.cover(float(SCHEDULE.sigma(t))) for t in (760, 0.75 * 999, 600, 0.5 * 999, 490)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert region().levels.cover(1e9)
    assert region(end_percent=1.0).levels.cover(1e-3)


def entries(*options):
    return [[torch.full((1, 1, 1), float(i)), option] for i, option in enumerate(options)]


def test_the_other_side_gets_the_smallest_entry_around_an_area():
    inner, outer = {"area": (4, 4, 2, 2)}, {"area": (10, 10, 0, 0)}
    ours, theirs = place([entries({}, inner), entries({}, outer)], SCHEDULE, LATENT)
    places = [(float(entry.context), entry.region.area) for entry in theirs]
    assert places == [(0, None), (1, Area(10, 10, 0, 0)), (1, Area(4, 4, 2, 2))]
    assert [(float(entry.context), entry.region.area) for entry in ours] == [
        (0, None),
        (1, Area(4, 4, 2, 2)),
        (0, Area(10, 10, 0, 0)),
    ]
    alone, none = place([entries(inner), entries({"area": (4, 4, 10, 10)})], SCHEDULE, LATENT)
    assert len(alone) == len(none) == 1  # nothing around


def test_predictions_are_averaged_by_weight_at_every_pixel():
    a, b = (torch.randn(2, 4, 16, 24, generator=torch.manual_seed(seed)) for seed in (0, 1))
    area = Area(6, 8, 3, 5)
    combined = combine([(a, Region(weight=2.0)), (area.cut(b), Region(area, 3.0))], a)
    expected = a.clone()
    area.cut(expected)[:] = (2 * area.cut(a) + 3 * area.cut(b)) / 5
    assert torch.allclose(combined, expected, atol=1e-6)
    outside = combine([(area.cut(b), Region(area, 3.0))], a)
    assert torch.allclose(area.cut(outside), area.cut(b))
    area.cut(outside)[:] = 0
    assert not outside.any()
    assert combine([(a, Region())], a) is a
    assert not combine([], a).any()


@pytest.fixture
def asked(load, monkeypatch):
    """asked(positive, negative): x0 of a tiny model at sigma 2 and the sizes that its UNet saw."""
    file = load("v2-base")
    latent = torch.randn(2, 4, 16, 24, generator=torch.manual_seed(0))
    sizes = []
    forward = type(file.model.unet).forward

    def noted(unet, x, *rest):
        sizes.append(list(x.shape))
        return forward(unet, x, *rest)

    monkeypatch.setattr(type(file.model.unet), "forward", noted)

    def ask(positive, negative, *, scale=3.0, sigma=2.0):
        sizes.clear()
        denoise = guided_denoiser(file.model, positive, negative, latent, None, scale=scale, phi=0.0, seed=0)
        return denoise(latent, sigma), list(sizes)

    ask.file = file
    return ask


def test_one_prompt_a_side_is_one_call(asked):
    _, sizes = asked(*prompts(asked.file))
    assert sizes == [[4, 4, 16, 24]]


def test_prompts_of_one_area_share_a_call(asked):
    positive, negative = prompts(asked.file)
    corner = [[positive[0][0], {"area": (8, 8, 0, 16)}]]
    mixed, sizes = asked(positive + corner, negative)
    assert sizes == [[4, 4, 16, 24], [4, 4, 8, 8]]
    plain, _ = asked(positive, negative)
    assert torch.allclose(mixed[..., :16], plain[..., :16], atol=1e-5)  # away from the area
    assert not torch.allclose(mixed[..., :8, 16:], plain[..., :8, 16:], atol=1e-2)


def test_a_range_leaves_a_prompt_out(asked):
    positive, negative = prompts(asked.file)
    other = prompts(asked.file, "a tree")[0]
    early = [[positive[0][0], {"end_percent": 0.3}]]
    late = [[other[0][0], {"start_percent": 0.3}]]
    for sigma, one in ((float(SCHEDULE.sigma(900)), positive), (float(SCHEDULE.sigma(100)), other)):
        found, sizes = asked(early + late, negative, sigma=sigma)
        assert sizes == [[4, 4, 16, 24]]
        assert torch.equal(found, asked(one, negative, sigma=sigma)[0])


def test_conditions_are_cut_to_the_area(load):
    """An inpainting model sees the part of the mask that lies in the area."""
    file = load("v2-inpaint")
    (context, _), *_ = prompts(file)[0]
    mask = torch.rand(1, 1, 16, 24, generator=torch.manual_seed(1)).round()
    masked = torch.randn(1, 4, 16, 24, generator=torch.manual_seed(2))
    x = torch.randn(1, 4, 16, 24, generator=torch.manual_seed(3))
    area = Area(16, 8, 0, 8)

    def x0(latent, options, cut):
        given = {"concat_mask": cut(mask), "concat_latent_image": cut(masked), **options}
        side = [[context, given]]
        return guided_denoiser(file.model, side, [], latent, None, scale=1.0, phi=0.0, seed=0)(latent, 2.0)

    placed = x0(x, {"area": (16, 8, 0, 8)}, lambda whole: whole)
    assert torch.allclose(area.cut(placed), x0(area.cut(x), {}, area.cut), atol=1e-4)


def test_the_keys_are_the_ones_that_are_read():
    assert set(regions.KEYS) >= {"area", "mask", "strength", "start_percent", "end_percent"}
