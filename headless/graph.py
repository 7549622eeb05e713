"""Read a workflow in either of ComfyUI's JSON formats, convert it to one table of nodes, and order the nodes.

The canvas saves the UI format: a links array, and widget values by position. The server takes the API format:
`{id: {"class_type", "inputs", "_meta": {"title"}}}`, where an input is a value or `[source id, output slot]`.
Everything after `read` works on the API format.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from .image_files import png_text
from .inputs import Input, Json, inputs_of

Prompt = dict[str, dict[str, Any]]

NOTES = frozenset({"Note", "MarkdownNote"})
SEED_CONTROLS = frozenset({"fixed", "randomize", "increment", "decrement"})
MODES = {2: "muted", 4: "bypassed"}


class WorkflowError(ValueError):
    """A workflow is invalid; `problems` has one sentence for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


class NotAWorkflow(ValueError):
    """A file contains no workflow; the message continues a sentence that starts with the file's name."""


@dataclass(frozen=True)
class Library:
    """The node classes that a workflow may use, and their display names."""

    classes: Mapping[str, type]
    names: Mapping[str, str]


@dataclass
class Workflow:
    """A workflow: `prompt` in API format, `ui` as saved by the canvas if available, and the `problems` so far."""

    prompt: Prompt
    ui: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def extra_pnginfo(self) -> dict[str, Any] | None:
        """The metadata that ComfyUI embeds in images in addition to the prompt."""
        return None if self.ui is None else {"workflow": self.ui}


Converter = Callable[[Mapping[str, Any], Library], tuple[Prompt, list[str]]]


def read(path: Path, library: Library, converter: Converter | None = None) -> Workflow:
    """Read a workflow from a .json file of either format or from a PNG with an embedded workflow.

    converter: used in place of `convert` for the UI format.
    """
    if not path.is_file():
        raise WorkflowError([f"{path} does not exist; check the path"])
    try:
        if path.suffix.lower() == ".png":
            return _embedded(path, library, converter)
        return from_json(json.loads(path.read_text(encoding="utf-8")), library, converter)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WorkflowError([f"{path} is not valid JSON ({error}); save the workflow again"]) from None
    except NotAWorkflow as error:
        raise WorkflowError([f"{path} {error}"]) from None


def _embedded(path: Path, library: Library, converter: Converter | None) -> Workflow:
    text = {key: json.loads(value) for key, value in png_text(path).items() if key in ("prompt", "workflow")}
    if not text:
        raise NotAWorkflow("contains no workflow; choose an image saved by ComfyUI or sd2 run")
    workflow = from_json(text.get("prompt", text.get("workflow")), library, converter)
    workflow.ui = text.get("workflow")
    return workflow


def from_json(data: Json, library: Library, converter: Converter | None = None) -> Workflow:
    """Build a workflow from parsed JSON, without changing `data`."""
    if _is_ui(data):
        prompt, problems = (converter or convert)(data, library)
        return Workflow(prompt, copy.deepcopy(data), problems)
    if not isinstance(data, dict) or not data or not all(map(_is_api_node, data.values())):
        raise NotAWorkflow("is not a ComfyUI workflow; save one from ComfyUI, in UI or API format")
    return Workflow({str(key): {**node, "inputs": dict(node.get("inputs", {}))} for key, node in data.items()})


def _is_ui(data: Json) -> bool:
    if not isinstance(data, dict) or not isinstance(data.get("nodes"), list):
        return False
    named = all(isinstance(node, dict) and "id" in node and "type" in node for node in data["nodes"])
    return named and isinstance(data.get("links"), list)


def _is_api_node(node: Json) -> bool:
    return (
        isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs", {}), dict)
    )


def label(prompt: Prompt, node_id: str) -> str:
    """Format a node's name for messages: `node 5 "Sampler"`."""
    return f'node {node_id} "{title_of(prompt[node_id])}"'


def title_of(node: Mapping[str, Any]) -> str:
    return str(node.get("_meta", {}).get("title") or node["class_type"])


def is_link(value: Json) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


# UI format to API format


def convert(ui: Mapping[str, Any], library: Library) -> tuple[Prompt, list[str]]:
    """Convert the UI format to the API format and list the problems. Notes are skipped, reroutes are followed."""
    nodes = {str(node["id"]): node for node in ui["nodes"]}
    links = {link_id: (origin, slot) for link_id, origin, slot in map(_link, ui["links"])}
    prompt: Prompt = {}
    problems: list[str] = []
    for node_id, node in nodes.items():
        if node["type"] in NOTES or node["type"] == "Reroute":
            continue
        title = node.get("title") or library.names.get(node["type"], node["type"])
        prompt[node_id] = {"class_type": node["type"], "inputs": {}, "_meta": {"title": title}}
        who = label(prompt, node_id)
        if node.get("mode", 0) in MODES:
            problems.append(f"{who} is {MODES[node['mode']]}; delete it or set its mode to Always, then save again")
        try:
            if node["type"] in library.classes:
                prompt[node_id]["inputs"].update(_widget_values(node, library.classes[node["type"]]))
        except ValueError as error:
            problems.append(f"{who} {error}")
        for name, link in _linked(node):
            source = _source(link, nodes, links)
            if source is not None:
                prompt[node_id]["inputs"][name] = list(source)
            elif link not in links:
                problems.append(f"{who}: the link to {name} is missing in the file; connect it again and save")
    return prompt, problems


def _link(link: Json) -> tuple[Json, str, int]:
    if isinstance(link, dict):
        return link["id"], str(link["origin_id"]), int(link["origin_slot"])
    return link[0], str(link[1]), int(link[2])


def _linked(node: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    entries = node.get("inputs") or ()
    return ((entry["name"], entry["link"]) for entry in entries if entry.get("link") is not None)


def _source(link: Json, nodes: Mapping[str, Any], links: Mapping[Json, tuple[str, int]]) -> tuple[str, int] | None:
    """Return the output that feeds a link, through any reroutes; None if a reroute has no input."""
    seen = set()
    while link in links and link not in seen:
        seen.add(link)
        origin, slot = links[link]
        if nodes.get(origin, {}).get("type") != "Reroute":
            return origin, slot
        link = next((upstream for _, upstream in _linked(nodes[origin])), None)
    return None


def _widget_values(node: Mapping[str, Any], node_class: type) -> dict[str, Any]:
    values = node.get("widgets_values") or []
    widgets = {name: entry for name, entry in inputs_of(node_class).items() if entry.widget}
    if isinstance(values, dict):
        return {name: values[name] for name in widgets if values.get(name) is not None}
    slots, end = widget_slots(list(widgets.values()), values)
    if widgets and len(values) > end:
        raise ValueError(
            f"has {len(values)} saved widget values, but {node['type']} takes {end}; open it in ComfyUI and save again"
        )
    return {name: values[at] for name, at in slots.items() if at < len(values) and values[at] is not None}


def widget_slots(widgets: Sequence[Input], values: Sequence[Any]) -> tuple[dict[str, int], int]:
    """Return the index of each widget's value in `widgets_values`, and the end of the last one.

    The canvas adds values of its own: the seed control, and an image's upload button after the required widgets.
    """
    slots: dict[str, int] = {}
    at = 0
    for required in (True, False):
        section = [widget for widget in widgets if widget.required == required]
        for widget in section:
            slots[widget.name] = at
            at += 1
            if widget.seed_control and values[at : at + 1] and values[at] in SEED_CONTROLS:
                at += 1
        if any(widget.options.get("image_upload") for widget in section) and values[at : at + 1] in (
            ["image"],
            [None],
        ):
            at += 1
    return slots, at


# Order


def order(prompt: Prompt, targets: Iterable[str]) -> list[str]:
    """Return `targets` and their ancestors, each node after its sources; raise ValueError if there is a cycle."""
    done: dict[str, None] = {}
    path: list[str] = []
    pending = [(target, False) for target in reversed(list(targets))]
    while pending:
        node_id, sources_done = pending.pop()
        if sources_done:
            done[path.pop()] = None
        elif node_id in path:
            cycle = [label(prompt, member) for member in path[path.index(node_id) :]]
            raise ValueError(f"the links form a cycle: {' needs '.join([*cycle, cycle[0]])}; remove one of them")
        elif node_id not in done:
            path.append(node_id)
            pending.append((node_id, True))
            pending += [(source, False) for source in reversed(sources(prompt[node_id])) if source in prompt]
    return list(done)


def sources(node: Mapping[str, Any]) -> list[str]:
    """Return the ids of the nodes that feed a node."""
    return [str(value[0]) for value in node["inputs"].values() if is_link(value) and value]


def outputs(prompt: Prompt, library: Library) -> list[str]:
    """Return the output nodes of a workflow, whose class is an OUTPUT_NODE."""
    classes = library.classes
    return [key for key, node in prompt.items() if getattr(classes.get(node["class_type"]), "OUTPUT_NODE", False)]
