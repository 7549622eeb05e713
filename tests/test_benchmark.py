"""The benchmark of inpainting: its cases have a known truth, and its measures give what they say."""

import json
import sys
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sd2_family.backends import folders
from sd2_family.benchmarks.inpainting import __main__ as benchmark
from sd2_family.benchmarks.inpainting import peers
from sd2_family.benchmarks.inpainting.cases import SETS, cases, is_soft
from sd2_family.benchmarks.inpainting.measures import NEAR, RING, measure, summary, wilson
from sd2_family.training.object_classifier import Classifier


@pytest.mark.parametrize("name", SETS)
def test_cases_show_the_truth_outside_their_mask_and_repeat(name):
    count = 1 if name == "hole in 2048" else 3  # for the sake of time
    for case, again in zip(cases(name, count), cases(name, count), strict=True):
        assert np.array_equal(case.image, again.image)
        assert np.array_equal(case.mask, again.mask)
        assert case.prompt == again.prompt
        assert 0 < case.mask.mean() < 1
        assert is_soft(case) == (name == "soft ramp") == (case.denoise < 1)
        assert np.array_equal(case.image[case.mask == 0], case.truth[case.mask == 0])
        assert (np.sum(case.holes, axis=0) == (case.mask == 1)).all() or name == "scratch"
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
    sets = [name for name in SETS if name != "hole in 2048"]  # for the sake of time
    monkeypatch.setattr(
        sys,
        "argv",
        ["benchmark", "--sets", *sets, "--count", "2", "--folder", str(tmp_path / "runs"), "--sheet", str(sheet)],
    )
    benchmark.main()
    table = capsys.readouterr().out.splitlines()
    benchmark.main()
    assert capsys.readouterr().out.splitlines() == table
    assert sorted(painted) == sorted(2 * sets)
    assert len(table) == 2 + len(sets)
    assert len({line.count("|") for line in table}) == 1
    assert "| object | 2 | ours | 0 | 0.00 | 0.0 / 0.0 | 0.0 | exact |" in table[2]
    assert sheet.is_file()


# peers on a ComfyUI


class Comfy:
    """A server that has some nodes, and gives the uploaded image back."""

    url = "http://comfyui"

    def __init__(self, *lacking):
        graphs = [peers.graph_of(name, cases("object", 1)[0]) for name in peers.NAMES]
        nodes = {node["class_type"] for graph in graphs for node in graph.prompt.values()}
        self.library = SimpleNamespace(classes={name: None for name in nodes if not name.startswith(lacking)})
        self.http = SimpleNamespace(post=self.upload)
        self.uploaded, self.prompts = {}, []

    def upload(self, url, files, data, timeout):
        assert url == f"{self.url}/upload/image"
        assert data == {"subfolder": peers.FOLDER, "overwrite": "true"}
        name, content = files["image"]
        self.uploaded[f"{data['subfolder']}/{name}"] = Image.open(BytesIO(content))
        return SimpleNamespace(raise_for_status=lambda: None)

    def run(self, workflow):
        self.prompts.append(workflow.prompt)
        load = next(node for node in workflow.prompt.values() if node["class_type"] == "LoadImage")
        folder = folders.output_dir() / "previews"
        folder.mkdir()
        self.uploaded[load["inputs"]["image"]].save(folder / "shown.png")
        yield "9", {"images": [{"filename": "shown.png", "subfolder": "previews", "type": "output"}], "text": ()}


@pytest.mark.parametrize("name", peers.NAMES)
def test_a_peers_prompt_is_whole(name):
    """Every link leads to a node, and only the last one shows an image. What the nodes take, only ComfyUI can say."""
    case = cases("two holes", 1)[0]
    prompt = peers.graph_of(name, case).prompt
    links = [value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)]
    assert all(node_id in prompt for node_id, _ in links)
    assert [key for key, node in prompt.items() if node["class_type"] == "PreviewImage"] == [list(prompt)[-1]]
    (sampler,) = (node["inputs"] for node in prompt.values() if "KSampler" in node["class_type"])
    assert (sampler["steps"], sampler["cfg"]) == (30, 7.5 if name.endswith("7.5") else 4)
    assert case.prompt in [node["inputs"].get("text") for node in prompt.values()]
    assert json.loads(json.dumps(prompt)) == prompt


def test_a_peer_paints_through_the_queue():
    case, server = cases("soft ramp", 1)[0], Comfy("nothing")
    assert np.array_equal(peers.painter("VAEEncodeForInpaint", server)(case), case.image)
    (mask,) = (np.asarray(image) for name, image in server.uploaded.items() if name.endswith(peers.MASK))
    assert np.abs(mask / 255 - case.mask).max() < 0.003
    (prompt,) = server.prompts
    assert [node["inputs"]["denoise"] for node in prompt.values() if node["class_type"] == "KSampler"] == [0.6]


def test_peers_without_their_pack_are_left_out(capsys):
    case = cases("object", 1)[0]
    found = benchmark.painters(Comfy("LanPaint_"), case)
    assert set(found) - set(benchmark.CONTENDERS) == {name for name in peers.NAMES if "LanPaint" not in name}
    said = capsys.readouterr().err
    assert "base, LanPaint is left out: the server has no LanPaint_ImageDecode, LanPaint_ImageEncode" in said
    assert "install scraed/LanPaint there" in said
    assert set(benchmark.painters(None, case)) == set(benchmark.CONTENDERS)
