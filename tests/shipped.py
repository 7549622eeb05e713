"""The shipped workflows, and the official checkpoint that each is made for."""

import json
from dataclasses import dataclass
from pathlib import Path

from sd2_family.headless import graph, overrides
from sd2_family.headless.library import LIBRARY

FOLDER = Path(__file__).parent.parent / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.json"))


@dataclass(frozen=True)
class Official:
    """The file's kind and name, and what its note says of the size it draws best."""

    kind: str
    file: str
    draws: str


DEPTH = Official("v2-depth", "512-depth-ema.safetensors", "512x512")
INPAINT = Official("v2-inpaint", "512-inpainting-ema.safetensors", "512x512")
UNCLIP = Official("unclip-h", "sd21-unclip-h.ckpt", "768x768")
OFFICIAL = {
    "depth2img": DEPTH,
    "img2img": Official("v2-base", "512-base-ema.safetensors", "512x512"),
    "inpaint": INPAINT,
    "inpaint_depth": DEPTH,
    "inpaint_outpaint": INPAINT,
    "inpaint_refine": INPAINT,
    "inpaint_remove_object": INPAINT,
    "inpaint_replace_background": INPAINT,
    "inpaint_variation": UNCLIP,
    "inpaint_v1": Official("v1-inpaint", "sd-v1-5-inpainting.ckpt", "512x512"),
    "txt2img": Official("v2-base", "512-base-ema.safetensors", "512x512"),
    "txt2img_v": Official("v2-v", "768-v-ema.safetensors", "768x768"),
    "unclip_mix": UNCLIP,
    "unclip_variations": UNCLIP,
    "upscale_x4": Official("x4", "x4-upscaler-ema.safetensors", "128x128"),
}


NOTES = {"Note", "MarkdownNote"}
BYPASSED = 4


def named(path):
    return path.stem


def saved(path):
    return json.loads(path.read_text(encoding="utf-8"))


def classed(data):
    """The nodes that have a class: all but the notes."""
    return [node for node in data["nodes"] if node["type"] not in NOTES]


def executable(data):
    """The nodes that run."""
    return [node for node in classed(data) if node["mode"] != BYPASSED]


def note(path):
    (text,) = [node["widgets_values"][0] for node in saved(path)["nodes"] if node["type"] in NOTES]
    return text


def checkpoint(path):
    (name,) = [node["widgets_values"][0] for node in saved(path)["nodes"] if node["type"] == "SD2CheckpointLoader"]
    return name


def shortened(path, folder):
    """A copy of a workflow, as the canvas saves it, that samples in few steps."""
    workflow = graph.read(path, LIBRARY)
    for setting in quick(path, steps=4):
        overrides.set_value(workflow, setting, LIBRARY)
    assert not workflow.problems
    copy = folder / path.name
    copy.write_text(json.dumps(workflow.ui))
    return copy


def quick(path, **values):
    """Settings, NODE.INPUT=VALUE, that give every input of these names its value: steps, width, height."""
    return [
        f"{node['title']}.{entry['name']}={values[entry['name']]}"
        for node in executable(saved(path))
        for entry in node["inputs"]
        if entry["name"] in values
    ]
