"""Read a workflow in either of ComfyUI's JSON formats, convert it to one table of nodes, and order the nodes.

The canvas saves the UI format: a links array, and widget values by position. The server takes the API format:
`{id: {"class_type", "inputs", "_meta": {"title"}}}`, where an input is a value or `[source id, output slot]`.
Everything after `read` works on the API format.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from . import canvas
from .canvas import Converted, Prompt
from .damage import NotAWorkflow
from .image_files import image_text
from .inputs import Json, inputs_of
from .object_info import describe_all


class WorkflowError(ValueError):
    """A workflow is invalid; `problems` has one sentence for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Library:
    """The node classes that a workflow may use, and their display names.

    described: a server's /object_info, where the classes are made from it.
    """

    classes: Mapping[str, type]
    names: Mapping[str, str]
    described: Mapping[str, Any] | None = None

    @property
    def object_info(self) -> Mapping[str, Any]:
        """The description of every class, with the files that there are now."""
        return describe_all(self.classes, self.names) if self.described is None else self.described


@dataclass
class Workflow:
    """A workflow: `prompt` in API format, `ui` as saved by the canvas if available, and the `problems` so far.

    as_typed: whether the text of `prompt` still has the {a|b}, comments and %names% that the canvas replaces.
    """

    prompt: Prompt
    ui: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)
    as_typed: bool = False

    @property
    def extra_pnginfo(self) -> dict[str, Any] | None:
        """The metadata that ComfyUI embeds in images in addition to the prompt."""
        return None if self.ui is None else {"workflow": self.ui}


def read(path: Path, library: Library) -> Workflow:
    """Read a workflow in either format, from a JSON file or from the metadata of an image."""
    if not path.is_file():
        raise WorkflowError([f"{path} does not exist; check the path"])
    embedded = image_text(path)
    try:
        return from_json(_loaded(path), library) if embedded is None else _embedded(embedded, library)
    except RecursionError:
        raise WorkflowError([f"{path} has lists in lists too deep to read; save the workflow again"]) from None
    except NotAWorkflow as error:
        raise WorkflowError([f"{path} {error}"]) from None


def _loaded(path: Path) -> Json:
    """Parse a JSON file in UTF-8, UTF-16 or UTF-32, with a byte order mark or without."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, or a number of too many digits
        raise NotAWorkflow(f"is not valid JSON ({error}); save the workflow again") from None


def _embedded(text: Mapping[str, str], library: Library) -> Workflow:
    """Read what ran from an image, else the canvas; other programs have text of their own under these names."""
    ui = _parsed(text.get("workflow"))
    prompt = _parsed(text.get("prompt"))
    if _is_prompt(prompt):
        workflow = from_json(prompt, library)
        workflow.ui = _sound(ui)
        return workflow
    if not isinstance(ui, dict):
        raise NotAWorkflow("contains no workflow; choose an image saved by ComfyUI or sd2 run")
    return from_json(ui, library)


def _parsed(text: str | None) -> Json:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def _sound(ui: Json) -> dict[str, Any] | None:
    try:
        return ui if isinstance(ui, dict) and canvas.checked(ui) else None
    except NotAWorkflow:
        return None


def from_json(data: Json, library: Library) -> Workflow:
    """Build a workflow from parsed JSON, without changing `data`."""
    if isinstance(data, dict) and isinstance(data.get("nodes"), list) and isinstance(data.get("links"), list):
        converted = canvas.to_prompt(data, library.object_info)
        workflow = Workflow(converted.prompt, copy.deepcopy(data), as_typed=True)
        _leave_out(workflow, converted, library)
        return workflow
    if isinstance(data, dict) and _is_prompt(data.get("prompt")):  # as it is posted to a server
        data = data["prompt"]
    if not _is_prompt(data):
        raise NotAWorkflow("is not a ComfyUI workflow; save one from ComfyUI, in UI or API format")
    prompt = {key: {**node, "inputs": dict(node.get("inputs", {}))} for key, node in data.items()}
    for node in prompt.values():
        node["class_type"] = canvas.named_today(node["class_type"], library.classes)
    return Workflow(prompt)


def _is_prompt(data: Json) -> bool:
    return isinstance(data, dict) and bool(data) and all(map(_is_api_node, data.values()))


def _is_api_node(node: Json) -> bool:
    return (
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs", {}), dict)
        and isinstance(node.get("_meta", {}), dict)
    )


def _leave_out(workflow: Workflow, converted: Converted, library: Library) -> None:
    """Leave out what needs a muted node, and nodes of unknown type that nothing needs."""
    prompt = workflow.prompt
    gone = _unfed(converted, library)
    if not set(outputs(prompt, library)) - gone and outputs(prompt, library):
        raise WorkflowError(
            [
                f"{label(prompt, node_id)}: {name} comes from node {source}, which is muted; set its mode to Always"
                for node_id, inputs in converted.muted.items()
                for name, source in inputs.items()
            ]
        )
    for node_id in gone:
        del prompt[node_id]
    for node in prompt.values():
        for name in [name for name, value in node["inputs"].items() if is_link(value) and str(value[0]) in gone]:
            del node["inputs"][name]
    kept = needed(prompt, library, converted.canvas_only)
    for node_id in [key for key, node in prompt.items() if node["class_type"] not in library.classes]:
        if node_id not in kept:
            del prompt[node_id]


def _unfed(converted: Converted, library: Library) -> set[str]:
    """Return the nodes with a required input from a muted node, or from a node of which that is true."""
    prompt = converted.prompt
    lost = {node_id: set(inputs) for node_id, inputs in converted.muted.items()}
    gone: set[str] = set()
    while more := {key for key, names in lost.items() if key not in gone and names & _required(prompt[key], library)}:
        gone |= more
        for node_id, node in prompt.items():
            linked = {name for name, value in node["inputs"].items() if is_link(value) and str(value[0]) in more}
            lost[node_id] = lost.get(node_id, set()) | linked
    return gone


def _required(node: Mapping[str, Any], library: Library) -> set[str]:
    node_class = library.classes.get(node["class_type"])
    return {name for name, entry in inputs_of(node_class).items() if entry.required} if node_class else set()


def label(prompt: Prompt, node_id: str) -> str:
    """Format a node's name for messages: `node 5 "Sampler"`."""
    return f'node {node_id} "{title_of(prompt[node_id])}"'


def title_of(node: Mapping[str, Any]) -> str:
    return str(node.get("_meta", {}).get("title") or node["class_type"])


def is_link(value: Json) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


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


def needed(prompt: Prompt, library: Library, canvas_only: Set[str] = frozenset()) -> set[str]:
    """Return the nodes that have an effect: the outputs and what feeds them; all nodes if there is no output.

    A node of unknown type that takes something and hands nothing on counts as an output, unless `canvas_only` has it.
    """
    used = {source for node in prompt.values() for source in sources(node)}
    ends = [
        node_id
        for node_id, node in prompt.items()
        if node["class_type"] not in library.classes and node_id not in used | canvas_only and sources(node)
    ]
    known = outputs(prompt, library)
    pending = [*known, *ends] if known else list(prompt)
    found: set[str] = set()
    while pending:
        node_id = pending.pop()
        if node_id in prompt and node_id not in found:
            found.add(node_id)
            pending += sources(prompt[node_id])
    return found
