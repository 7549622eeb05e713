"""The benchmark of inpainting: its cases have a known truth, and its measures give what they say."""

import sys

import numpy as np
import pytest
from sd2_family.benchmarks.inpainting import __main__ as benchmark
from sd2_family.benchmarks.inpainting.cases import SETS, cases
from sd2_family.benchmarks.inpainting.measures import NEAR, RING, measure, summary, wilson
from sd2_family.training.object_classifier import Classifier


@pytest.mark.parametrize("name", SETS)
def test_cases_show_the_truth_outside_their_mask_and_repeat(name):
    for case, again in zip(cases(name, 3), cases(name, 3), strict=True):
        assert np.array_equal(case.image, again.image)
        assert np.array_equal(case.mask, again.mask)
        assert case.prompt == again.prompt
        assert 0 < case.mask.mean() < 1
        assert np.array_equal(case.image[case.mask == 0], case.truth[case.mask == 0])
        assert (np.sum(case.holes, axis=0) == case.mask).all() or name == "scratch"
        assert case.kind in case.prompt
        assert case.color in case.prompt


def test_the_truth_itself_has_no_fault():
    (case,) = cases("object", 1)
    found = summary([measure(case, case.truth)])
    assert (found.changed, found.most, found.seam, found.shift, found.error, found.hole) == (0, 0, 0, 0, 0, 0)
    assert found.kept == float("inf")


def test_faults_are_measured_where_they_are():
    """A shift of 10 in the hole, and 25 pixels outside that differ by 20."""
    (case,) = cases("object", 1)
    truth = np.full_like(case.truth, 100)
    inside = case.mask > 0
    shifted = np.where(inside[..., None], truth + 10, truth).astype(np.uint8)
    spots = np.flatnonzero(~inside)[::97][:25]
    shifted.reshape(-1, 3)[spots] += 20
    flat = type(case)(**{**vars(case), "image": truth, "truth": truth})
    found = measure(flat, shifted)
    assert (found.changed, found.most) == (25, 20)
    assert found.shift == found.error == found.hole == 10
    assert found.steps[NEAR.index(0)] == pytest.approx(10, abs=1)  # a few spots touch the border
    assert abs(found.steps[NEAR.index(-RING)]) < 1e-9
    kept = 10 * np.log10(255**2 / (25 * 20**2 / (~inside).sum()))
    assert summary([found]).kept == pytest.approx(kept)


def test_a_wilson_interval():
    low, high = wilson(92, 100)  # the textbook's form, solved for the rate
    for bound in (low, high):
        assert abs(0.92 - bound) == pytest.approx(1.96 * np.sqrt(bound * (1 - bound) / 100), abs=1e-9)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1


def test_it_prints_a_table_and_paints_nothing_twice(tmp_path, monkeypatch, capsys):
    painted = []

    def paint(case):
        painted.append(case.name)
        return case.truth

    classifier = Classifier().eval()  # untrained
    monkeypatch.setattr(benchmark, "load_classifier", lambda folder: classifier)
    monkeypatch.setitem(benchmark.CONTENDERS, "ours", lambda: paint)
    sheet = tmp_path / "sheet.png"
    monkeypatch.setattr(
        sys, "argv", ["benchmark", "--count", "2", "--folder", str(tmp_path / "runs"), "--sheet", str(sheet)]
    )
    benchmark.main()
    table = capsys.readouterr().out.splitlines()
    benchmark.main()
    assert capsys.readouterr().out.splitlines() == table
    assert sorted(painted) == sorted(2 * list(SETS))
    assert len(table) == 2 + len(SETS)
    assert len({line.count("|") for line in table}) == 1
    assert "| object | ours | 0 | 0.00 | 0.0 / 0.0 | 0.0 | exact |" in table[2]
    assert sheet.is_file()
