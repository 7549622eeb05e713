"""`sd2 nodes` and the description of node classes that converters read."""

import json

import pytest
from fake_nodes import CLASSES, LIBRARY
from sd2_family.backends import folders
from sd2_family.headless import library
from sd2_family.headless.cli import main
from sd2_family.headless.object_info import describe, describe_all
from sd2_family.headless.stock import NODE_CLASS_MAPPINGS as STOCK


class Everything:
    """A class with all that ComfyUI reads of one."""

    RETURN_TYPES = ("IMAGE", ["a", "b"])
    RETURN_NAMES = ("picture", "letter")
    OUTPUT_IS_LIST = (True, False)
    OUTPUT_TOOLTIPS = ("A picture.", "A letter.")
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "test/all"
    DESCRIPTION = "Does everything."
    DEPRECATED = True
    EXPERIMENTAL = True
    SEARCH_ALIASES = ("all",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"z": (("x", "y"), {"default": "y"}), "a": ("IMAGE",)},
            "optional": {"n": ("INT", {"default": 0})},
            "hidden": {"id": "UNIQUE_ID"},
        }


def test_a_class_is_described_in_the_servers_words():
    assert describe("Everything", Everything, "All of it") == {
        "input": {
            "required": {"z": [["x", "y"], {"default": "y"}], "a": ["IMAGE"]},
            "optional": {"n": ["INT", {"default": 0}]},
            "hidden": {"id": "UNIQUE_ID"},
        },
        "input_order": {"required": ["z", "a"], "optional": ["n"], "hidden": ["id"]},
        "is_input_list": False,
        "output": ["IMAGE", ["a", "b"]],
        "output_is_list": [True, False],
        "output_name": ["picture", "letter"],
        "name": "Everything",
        "display_name": "All of it",
        "description": "Does everything.",
        "python_module": "test_object_info",
        "category": "test/all",
        "output_node": True,
        "has_intermediate_output": False,
        "output_tooltips": ["A picture.", "A letter."],
        "search_aliases": ["all"],
        "deprecated": True,
        "experimental": True,
    }


def test_what_a_class_does_not_say_is_the_servers_default():
    described = describe_all(CLASSES, LIBRARY.names)
    assert [described[name]["display_name"] for name in CLASSES] == ["A Number", "Add", "Show It", "Picky"]
    assert described["Show"]["output_node"] is True
    number = {key: described["Number"][key] for key in ("output_name", "output_is_list", "category", "description")}
    assert number == {
        "output_name": ["NUMBER", "STRING"], "output_is_list": [False, False], "category": "sd", "description": "",
    }  # fmt: skip


def test_nodes_are_listed_with_their_titles(capsys):
    assert main(["nodes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(library.LIBRARY.classes)
    assert lines == sorted(lines)
    assert ["SD2/sampling", "SD2KSampler", "SD2 KSampler"] in [line.split(maxsplit=2) for line in lines]


@pytest.mark.parametrize("place", ["--models-dir", "environment", "neither"])
def test_json_lists_the_models_that_there_are(place, own_models, tmp_path, monkeypatch, capsys):
    own_models("v1")
    if place != "environment":
        monkeypatch.delenv("SD2_MODELS_DIR")
    assert main(["nodes", "--json", *(["--models-dir", str(tmp_path)] if place == "--models-dir" else [])]) == 0
    described = json.loads(capsys.readouterr().out)
    assert set(described) >= {"SD2KSampler", *STOCK}
    files = described["SD2CheckpointLoader"]["input"]["required"]["ckpt_name"][0]
    assert ("v1.safetensors" in files) == (place != "neither")
    with folders.using(folders.Folders(models=tmp_path if place == "--models-dir" else None)):
        assert described == library.LIBRARY.object_info
