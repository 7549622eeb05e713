"""The subgraph that ComfyUI offers in its node search: it names our nodes rightly and inpaints."""

import json

import numpy as np
import pytest
from PIL import Image
from sd2_family.headless import graph
from sd2_family.headless.check import check
from sd2_family.headless.cli import main
from sd2_family.headless.inputs import inputs_of
from sd2_family.headless.library import LIBRARY
from sd2_family.nodes.sample_image import SAMPLES
from shipped import FOLDER

BLUEPRINTS = sorted((FOLDER.parent / "subgraphs").glob("*.json"))


def blueprint():
    (path,) = BLUEPRINTS
    return json.loads(path.read_text(encoding="utf-8"))


def workflow():
    """A sample image, the blueprint, Save Image."""
    data = blueprint()
    (inpaint,) = data["nodes"]
    sample = {"id": 2, "type": "SD2SampleImage", "inputs": [], "widgets_values": ["forest.png"], "order": 0, "mode": 0}
    save = {
        "id": 3,
        "type": "SaveImage",
        "inputs": [],
        "outputs": [],
        "widgets_values": ["out"],
        "order": 2,
        "mode": 0,
    }
    sample["outputs"] = [
        {"name": "image", "type": "IMAGE", "links": [1]},
        {"name": "mask", "type": "MASK", "links": [2]},
    ]
    save["inputs"] = [{"name": "images", "type": "IMAGE", "link": 3}]
    inpaint["inputs"][0]["link"], inpaint["inputs"][1]["link"], inpaint["outputs"][0]["links"] = 1, 2, [3]
    data["nodes"] += [sample, save]
    data["links"] = [[1, 2, 0, 1, 0, "IMAGE"], [2, 2, 1, 1, 1, "MASK"], [3, 1, 0, 3, 0, "IMAGE"]]
    return data


def test_its_nodes_have_the_inputs_of_their_classes():
    (subgraph,) = blueprint()["definitions"]["subgraphs"]
    links = {link["id"]: link for link in subgraph["links"]}
    for node in subgraph["nodes"]:
        declared = inputs_of(LIBRARY.classes[node["type"]])
        assert sorted(entry["name"] for entry in node["inputs"]) == sorted(declared)
        for index, entry in enumerate(node["inputs"]):
            if entry["link"] is not None:
                assert (links[entry["link"]]["target_id"], links[entry["link"]]["target_slot"]) == (node["id"], index)
    check(graph.from_json(workflow(), LIBRARY), LIBRARY)


@pytest.mark.cosmetics
def test_it_is_found_and_explained():
    data = blueprint()
    assert data["definitions"]["subgraphs"][0]["name"] == BLUEPRINTS[0].stem == "Inpaint (SD2)"
    assert {"inpaint", "stable diffusion 2"} <= set(data["extra"]["BlueprintSearchAliases"])
    assert data["extra"]["BlueprintDescription"] == data["definitions"]["subgraphs"][0]["description"]


def test_it_repaints_the_mask_and_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "workflow.json"
    data = workflow()
    (sampler,) = [node for node in data["definitions"]["subgraphs"][0]["nodes"] if node["type"] == "SD2KSampler"]
    sampler["widgets_values"][2] = 2  # steps
    path.write_text(json.dumps(data))
    assert main(["run", str(path)]) == 0
    result = np.asarray(Image.open(tmp_path / capsys.readouterr().out.split()[-1]).convert("RGB"))
    original = np.asarray(Image.open(SAMPLES / "forest.png").convert("RGB"))
    outside = np.asarray(Image.open(SAMPLES / "forest_mask.png").convert("L")) == 0
    assert (result[outside] == original[outside]).all()
    assert (result[~outside] != original[~outside]).mean() > 0.5
