"""What is said of a node that runs only in ComfyUI: its pack, what to use instead, and how to run it all the same."""

import json

import pytest
from comfy_cli.config_manager import ConfigManager
from sd2_family.headless import graph, packs
from sd2_family.headless.check import check
from sd2_family.headless.instead import INSTEAD, NODE, instead_of
from sd2_family.headless.library import LIBRARY

MAP = {
    "https://github.com/someone/packed": [["Packed", "Other"], {"title_aux": "Packed nodes"}],
    "https://github.com/someone/many": [[], {"title_aux": "Many", "nodename_pattern": " \\(many\\)$"}],
}


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    """A ComfyUI as comfy-cli knows it, and nothing remembered of another."""
    place = tmp_path / "ComfyUI"
    for name in ("comfy", "comfy_extras", "comfy_api", "custom_nodes"):
        (place / name).mkdir(parents=True)
    (place / "main.py").touch()
    monkeypatch.setitem(ConfigManager().config["DEFAULT"], "default_workspace", str(place))
    monkeypatch.chdir(tmp_path)
    packs._node_maps.cache_clear()
    yield place
    packs._node_maps.cache_clear()


def said(class_type, properties=None, subgraphs=()):
    """The problem of an unknown node whose picture is saved."""
    prompt = {
        "1": {"class_type": class_type, "inputs": {}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
    }
    ui = {"nodes": [{"id": 1, "type": class_type, "properties": properties}]}
    if subgraphs:
        ui["definitions"] = {"subgraphs": subgraphs}
    with pytest.raises(graph.WorkflowError) as refused:
        check(graph.Workflow(prompt, ui), LIBRARY)
    (line,) = refused.value.problems
    return line.removeprefix("node 1: ").removeprefix(f'node 1 "{class_type}": ')


def test_an_unknown_node():
    assert said("Nobodys") == "node type Nobodys needs ComfyUI; run the workflow with --comfyui or --server"


@pytest.mark.parametrize(
    ("class_type", "use"),
    [
        ("SamplerCustom", "use SD2 KSampler, which has the sampler,"),
        ("DiffusersLoader", "use SD2 Load Checkpoint, which lists the diffusers folder"),
        ("Image Resize", "use Upscale Image in its place, or run"),
        ("ThresholdMask", "use the threshold widget of SD2 Mask Preprocess in its place"),
        ("Text to Conditioning", "use CLIP Text Encode (Prompt) in its place"),
    ],
)
def test_what_to_use_instead(class_type, use):
    line = said(class_type)
    assert line.startswith(f"node type {class_type} needs ComfyUI; {use}")
    assert line.endswith("in its place, or run the workflow with --comfyui or --server")


@pytest.mark.parametrize(
    ("properties", "owner"),
    [
        ({"cnr_id": "comfyui-impact-pack", "ver": "8.0"}, " of comfyui-impact-pack"),
        ({"aux_id": "someone/some-nodes"}, " of someone/some-nodes"),
        ({"cnr_id": "comfy-core"}, ""),
        ({"Node name for S&R": "Packed nothing"}, ""),
    ],
)
def test_the_pack_that_the_canvas_names(properties, owner):
    assert said("Thing", properties).startswith(f"node type Thing{owner} needs ComfyUI;")


def test_a_node_of_a_subgraph_names_its_pack():
    inside = [{"id": "s", "nodes": [{"id": 1, "type": "Thing", "properties": {"cnr_id": "deep-pack"}}, None]}, None]
    assert said("Thing", subgraphs=inside).startswith("node type Thing of deep-pack needs ComfyUI;")


@pytest.mark.parametrize(
    "place",
    [
        "custom_nodes/ComfyUI-Manager/extension-node-map.json",
        "user/default/ComfyUI-Manager/cache/1514988643_extension-node-map.json",
        ".venv/lib/python3.12/site-packages/comfyui_manager/extension-node-map.json",
    ],
)
def test_the_pack_that_the_manager_knows(workspace, place):
    (workspace / place).parent.mkdir(parents=True)
    (workspace / place).write_text(json.dumps(MAP))
    assert said("Packed").startswith("node type Packed of https://github.com/someone/packed needs ComfyUI;")
    assert said("It (many)").startswith("node type It (many) of https://github.com/someone/many needs")
    assert said("Nobodys").startswith("node type Nobodys needs")


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": [1, 2]}', ""])
def test_a_damaged_map_is_passed_over(workspace, content):
    for name, text in (("a", content), ("b", json.dumps(MAP))):
        path = workspace / "custom_nodes" / name / packs.NODE_MAP
        path.parent.mkdir()
        path.write_text(text)
    assert said("Packed").startswith("node type Packed of https://github.com/someone/packed needs")


@pytest.mark.parametrize("class_type", INSTEAD)
def test_only_nodes_that_run_here_are_named(class_type):
    assert class_type not in LIBRARY.classes
    assert set(NODE.findall(INSTEAD[class_type])) <= set(LIBRARY.classes)
    assert not set(instead_of(class_type, LIBRARY)) & set("{}")
