"""Check a checkpoint against the nodes that it is wired to, before a prompt is queued.

Only what the graph shows for certain is a problem: a wire is followed through nodes that pass it on under a usual
name, and ends at any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..backends.queued import Prompt
from ..models.detection import Inspection, inspect
from ..models.specs import Condition
from ..models.weights_file import stays_on_disk
from ..pipeline.checks import NEEDS

LOADERS = ("SD2CheckpointLoader", "CheckpointLoaderSimple", "unCLIPCheckpointLoader")
PROMPTS = ("SD2CLIPTextEncode", "CLIPTextEncode")
# nodes that add a condition to both sides of a conditioning, or to one
ADDS: dict[str, Condition] = {
    "SD2VAEEncodeForInpaint": "inpaint",
    "SD2DepthConditioning": "depth",
    "SD2UnCLIPConditioning": "unclip",
    "SD2UpscaleConditioning": "upscale",
    "InpaintModelConditioning": "inpaint",
    "unCLIPConditioning": "unclip",
    "SD_4XUpscale_Conditioning": "upscale",
}
SIDES = ("positive", "negative")
PARTS = {  # output of a loader -> what it is, what to do without it
    1: ("text encoder", "connect one from Load CLIP, or choose a whole checkpoint"),
    2: ("autoencoder (VAE)", "connect one from Load VAE, or choose a whole checkpoint"),
    3: ("image encoder", "choose sd21-unclip-h or sd21-unclip-l"),
    4: ("depth estimator", "choose 512-depth-ema, or connect a depth map made elsewhere"),
}
_inspections: dict[Path, tuple[tuple[int, int], Inspection]] = {}


def checkpoint_problem(path: Path, prompt: Prompt, name: str) -> str:
    """Return why the checkpoint at `path`, which loaders call `name`, does not fit the prompt, else an empty string.

    Raises ValueError if the file is no checkpoint of the family. A file that would have to be read whole is not looked
    at.
    """
    loaders = [key for key, node in prompt.items() if _class(node) in LOADERS and _input(node, "ckpt_name") == name]
    if not path.is_dir() and not stays_on_disk(path):
        return ""
    inspection = _inspected(path)
    problems = (problem for loader in loaders for problem in _problems(inspection, prompt, loader))
    return next(problems, "")


def _inspected(path: Path) -> Inspection:
    """Inspect a file once until it is replaced."""
    stat = path.stat()
    version = (stat.st_mtime_ns, stat.st_size)
    if path not in _inspections or _inspections[path][0] != version:
        _inspections[path] = version, inspect(path)
    return _inspections[path][1]


def _problems(file: Inspection, prompt: Prompt, loader: str) -> Iterator[str]:
    present = {1: "text" in file.sizes, 2: "autoencoder" in file.sizes, 3: file.spec.image, 4: file.spec.depth}
    for key, node in prompt.items():
        for value in _inputs(node).values():
            if _is_link(value) and str(value[0]) == loader and not present.get(value[1], True):
                what, instead = PARTS[value[1]]
                yield f"{file.name} has no {what}, which {_title(prompt, key)} needs; {instead}"
        if _model(prompt, key) == loader:
            yield from _conditioning_problems(file, prompt, key, _title(prompt, loader))


def _conditioning_problems(file: Inspection, prompt: Prompt, sampler: str, loader: str) -> Iterator[str]:
    """Compare the condition that a checkpoint takes with what reaches the sampler from each side."""
    own, model = file.spec.condition, f"{file.name} is a checkpoint for {file.spec.task} (kind {file.spec.kind})"
    # ComfyUI's samplers leave out a mask that the model does not take
    ours = str(_class(prompt[sampler])).startswith("SD2")
    for side in SIDES:
        added, complete = _added(prompt, _input(prompt[sampler], side))
        for condition, node in added.items():
            need = NEEDS[condition]
            if condition != own and (ours or condition != "inpaint"):
                yield (
                    f"{model}, but {_title(prompt, node)} needs one of kind {need.kinds}; choose one in {loader}, or "
                    f"remove {_title(prompt, node)}{need.instead}"
                )
        need = NEEDS.get(own, NEEDS["inpaint"])
        if complete and need.required and own not in added:
            yield (
                f"{model}, but the {side} prompt reaches {_title(prompt, sampler)} without {need.what}; put "
                f"{need.node} between them, {need.otherwise}"
            )


def _added(prompt: Prompt, link: Any) -> tuple[dict[Condition, str], bool]:  # noqa: ANN401  any JSON value
    """Follow a conditioning up to its prompts: the node of each condition, and whether everything there is known."""
    added: dict[Condition, str] = {}
    complete, prompts, links, seen = True, 0, [link], set()
    while links:
        current = links.pop()
        key = str(current[0]) if _is_link(current) else ""
        if key not in prompt:
            complete = False
            continue
        if (key, current[1]) in seen:
            continue
        seen.add((key, current[1]))
        node = prompt[key]
        if condition := ADDS.get(_class(node)):
            added.setdefault(condition, key)
        sides = [_input(node, side) for side in SIDES]
        if all(map(_is_link, sides)):
            links += sides[current[1] : current[1] + 1]
            continue
        others = [
            value for name, value in _inputs(node).items() if name.startswith("conditioning") and _is_link(value)
        ]
        prompts += _class(node) in PROMPTS
        complete = complete and (bool(others) or _class(node) in PROMPTS)
        links += others
    return added, complete and prompts > 0


def _model(prompt: Prompt, key: str) -> str:
    """Return the loader that the model of a sampler comes from, else an empty string."""
    node, seen = prompt[key], {key}
    if not any(_is_link(_input(node, side)) for side in SIDES):
        return ""
    while _is_link(link := _input(node, "model")):
        key = str(link[0])
        if key in seen or key not in prompt:
            return ""
        seen.add(key)
        node = prompt[key]
        if _class(node) in LOADERS:
            return key if link[1] == 0 else ""
    return ""


def _title(prompt: Prompt, key: str) -> str:
    """Return the title of a node on the canvas; where the prompt has none, its class."""
    node = prompt[key]
    return str((node.get("_meta") or {}).get("title") or _class(node))


def _class(node: Any) -> str:  # noqa: ANN401  any JSON value
    return str(node.get("class_type", "")) if isinstance(node, dict) else ""


def _inputs(node: Any) -> dict[str, Any]:  # noqa: ANN401  any JSON value
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else {}


def _input(node: Any, name: str) -> Any:  # noqa: ANN401  any JSON value
    return _inputs(node).get(name)


def _is_link(value: Any) -> bool:  # noqa: ANN401  any JSON value
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)
