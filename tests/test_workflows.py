"""The shipped workflows: as the canvas saves them, tidy to look at, and run from file to picture."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sd2_family.headless import graph
from sd2_family.headless.check import check
from sd2_family.headless.cli import main
from sd2_family.headless.images import load, png_text
from sd2_family.headless.inputs import inputs_of
from sd2_family.headless.library import LIBRARY
from sd2_family.nodes.folders import Folders
from tiny import write_checkpoint

FOLDER = Path(__file__).parent.parent / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.json"))
TITLE_BAR = 30  # the canvas draws a node's title above its position
KINDS = {"inpaint": "v2-inpaint"}  # the checkpoint kind each workflow loads


def named(path):
    return path.stem


def saved(path):
    return json.loads(path.read_text(encoding="utf-8"))


def executable(data):
    return [node for node in data["nodes"] if node["type"] not in graph.NOTES]


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """Tiny stand-ins for what the workflows name: a checkpoint of each kind, and pictures with masks."""

    def make(path):
        nodes = {node["type"]: node for node in saved(path)["nodes"]}
        checkpoint = tmp_path / "checkpoints" / nodes["SD2CheckpointLoader"]["widgets_values"][0]
        checkpoint.parent.mkdir()
        write_checkpoint(checkpoint, KINDS[path.stem])
        picture = tmp_path / "samples" / nodes["SD2SampleImage"]["widgets_values"][0]
        picture.parent.mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
        Image.fromarray(pixels).save(picture)
        mask = np.zeros((40, 56), np.uint8)
        mask[8:24, 16:40] = 255
        Image.fromarray(mask).save(picture.with_stem(f"{picture.stem}_mask"))
        return torch.from_numpy(pixels).float() / 255, torch.from_numpy(mask).float() / 255

    monkeypatch.setattr("sd2_family.nodes.folders._chosen", Folders(models=tmp_path))
    monkeypatch.setattr("sd2_family.nodes.pictures.SAMPLES", tmp_path / "samples")
    monkeypatch.chdir(tmp_path)
    return make


def test_there_are_workflows():
    assert {path.stem for path in WORKFLOWS} == set(KINDS)


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_links_agree_at_both_ends(path):
    data = saved(path)
    nodes = {node["id"]: node for node in data["nodes"]}
    assert data["version"] == 0.4
    assert len(nodes) == len(data["nodes"])
    assert data["last_node_id"] == max(nodes)
    assert data["last_link_id"] == max(link[0] for link in data["links"])
    for link, source, output, target, entry, kind in data["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][entry]["link"] == link
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[source]["order"] < nodes[target]["order"]
    ends = [entry["link"] for node in data["nodes"] for entry in node["inputs"] if entry["link"] is not None]
    assert sorted(ends) == sorted(link[0] for link in data["links"])
    assert sorted(node["order"] for node in data["nodes"]) == list(range(len(nodes)))


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_slots_and_values_are_those_of_the_classes(path):
    for node in executable(saved(path)):
        node_class = LIBRARY.classes[node["type"]]
        declared = inputs_of(node_class)
        sockets = [entry.name for entry in declared.values() if not entry.widget]
        widgets = [entry.name for entry in declared.values() if entry.widget]
        assert [entry["name"] for entry in node["inputs"]] == sockets + widgets
        assert [entry["type"] for entry in node["inputs"]] == [declared[name].type for name in sockets + widgets]
        assert [output["type"] for output in node["outputs"]] == list(node_class.RETURN_TYPES)
        controls = sum(entry.seed_control for entry in declared.values())
        assert len(node["widgets_values"]) == len(widgets) + controls


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_nodes_are_titled_coloured_and_apart(path):
    data = saved(path)
    titles = [node["title"] for node in data["nodes"]]
    assert len(set(titles)) == len(titles)  # so that --set can name each by its title
    boxes = []
    for node in data["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        boxes.append((x, y - TITLE_BAR, x + width, y + height))
        assert node["color"]
        assert node["bgcolor"]
        around = [
            group
            for group in data["groups"]
            if group["bounding"][0] < x
            and group["bounding"][1] + TITLE_BAR <= y - TITLE_BAR  # clear of the group's own title
            and group["bounding"][0] + group["bounding"][2] > x + width
            and group["bounding"][1] + group["bounding"][3] > y + height
        ]
        assert len(around) == 1, node["title"]
    for group in data["groups"]:
        x, y, width, height = group["bounding"]
        others = [other["bounding"] for other in data["groups"] if other is not group]
        assert not any(overlap((x, y, x + width, y + height), (a, b, a + c, b + d)) for a, b, c, d in others)
    assert not any(overlap(one, two) for i, one in enumerate(boxes) for two in boxes[:i])


def overlap(one, two):
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def test_inpaint_says_where_the_official_checkpoint_goes():
    (note,) = [node for node in saved(FOLDER / "inpaint.json")["nodes"] if node["type"] in graph.NOTES]
    for words in ("512-inpainting-ema.safetensors", "models/checkpoints", "512x512"):
        assert words in note["widgets_values"][0]


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_both_formats_check_and_give_the_same_calls(path, bundle):
    bundle(path)
    from_canvas = graph.read(path, LIBRARY)
    check(from_canvas, LIBRARY)
    from_api = graph.from_json(json.loads(json.dumps(from_canvas.prompt)), LIBRARY)
    check(from_api, LIBRARY)
    assert from_api.prompt == from_canvas.prompt
    named_inputs = {key: set(node["inputs"]) for key, node in from_canvas.prompt.items()}
    assert named_inputs == {
        str(node["id"]): {entry["name"] for entry in node["inputs"]} for node in executable(saved(path))
    }


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_workflow_runs_to_a_picture_and_again_to_the_same(path, bundle, tmp_path, capsys):
    original, mask = bundle(path)
    pictures = []
    for _ in range(2):
        assert main(["run", str(path), "--set", "Sampler.steps=2"]) == 0
        said = capsys.readouterr()
        assert "Sampler: 100%" in said.err
        pictures.append(tmp_path / said.out.strip())
    first, second = (load(picture)[0][0] for picture in pictures)
    assert torch.equal(first, second)
    assert first.shape == original.shape
    assert not torch.equal(first[mask == 1], original[mask == 1])
    far = torch.nn.functional.max_pool2d(mask[None], 33, stride=1, padding=16)[0] == 0  # beyond any soft edge
    assert torch.equal(first[far], original[far])
    embedded = json.loads(png_text(pictures[0])["workflow"])
    sampler = next(node for node in embedded["nodes"] if node["title"] == "Sampler")
    assert sampler["widgets_values"][2] == 2
    sampler["widgets_values"][2] = next(node for node in saved(path)["nodes"] if node["title"] == "Sampler")[
        "widgets_values"
    ][2]
    assert embedded == saved(path)


@pytest.mark.parametrize("path", WORKFLOWS, ids=named)
def test_what_a_workflow_names_comes_with_the_pack(path, monkeypatch):
    monkeypatch.setattr("sd2_family.nodes.folders._chosen", Folders())
    monkeypatch.delenv("SD2_MODELS_DIR", raising=False)
    check(graph.read(path, LIBRARY), LIBRARY)
