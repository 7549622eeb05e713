"""Convert a saved canvas (UI format) to the API format, as the canvas does when it queues.

comfy-cli's `convert_ui_to_api` does the conversion: subgraphs, promoted widgets, reroutes, primitives, Get and Set
nodes, bypassed nodes, positions of widget values. This file brings older and unusual canvases into the form that it
reads, and says which nodes lost an input to a muted node. Text in widgets stays as saved; `canvas_text` replaces it.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Container, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from . import group_nodes
from .damage import LINK, Canvas, NotAWorkflow, check_shape
from .inputs import Input, Json, parse, widget_slots

Prompt = dict[str, dict[str, Any]]
Node = dict[str, Any]
ObjectInfo = Mapping[str, Mapping[str, Any]]

MUTED, ALWAYS = 2, 0
SEARCHED = "Node name for S&R"  # since May 2023 the canvas gives this property to nodes that a server described
DEPTH, NODES = 10, 10_000  # subgraphs in each other, as many as the converter expands; nodes once they are expanded
PRIMITIVE = "PrimitiveNode"
RENAMED = {  # by ComfyUI, which reads the old names too
    "ConditioningAverage ": "ConditioningAverage",
    "T2IAdapterLoader": "ControlNetLoader",
    "SDV_img2vid_Conditioning": "SVD_img2vid_Conditioning",
}
SUBGRAPH = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")  # the type of a node that is a subgraph
# Types that the converter is not to know, by a space that is taken off again: it takes LoadImageOutput for a node of
# the canvas only, and prefers a widget's own value, which may be old, to that of the primitive that feeds it.
HIDDEN = frozenset({"LoadImageOutput", PRIMITIVE})
ON_CANVAS = frozenset({"Note", "MarkdownNote", PRIMITIVE, "GetNode", "SetNode", "Reroute"})


@dataclass
class Converted:
    """A canvas in API format.

    muted: for each node that is linked to a muted one, its inputs concerned and the id of the muted node.
    canvas_only: ids of nodes of unknown type that no server ever described, so that only the canvas has them.
    """

    prompt: Prompt
    muted: dict[str, dict[str, str]] = field(default_factory=dict)
    canvas_only: set[str] = field(default_factory=set)


def to_prompt(saved: Canvas, object_info: ObjectInfo) -> Converted:
    """Convert a canvas; raise NotAWorkflow if it is damaged. `saved` stays as it is."""
    ui = checked(saved)
    literal = {kind: _without_dynamic_prompts(info) for kind, info in object_info.items()}
    described = any(SEARCHED in node["properties"] for graph in _graphs(ui) for node in graph["nodes"])
    for node in (node for graph in _graphs(ui) for node in graph["nodes"]):
        node["type"] = named_today(node["type"], object_info)
    known = object_info.keys() | {subgraph["id"] for subgraph in _graphs(ui)[1:]}
    for graph in _graphs(ui):
        _hand_on(graph, known, described)
    group_nodes.expand(ui, literal)
    nodes = [node for graph in _graphs(ui) for node in graph["nodes"]]
    for node in nodes:
        _adapt(node, literal)
    converted = Converted(_convert(ui, literal))
    if described:
        by_id = dict(all_nodes(ui))
        unknown = [key for key, node in converted.prompt.items() if node["class_type"] not in object_info]
        converted.canvas_only = {key for key in unknown if key in by_id and _drawn_only(by_id[key])}
    if any(node.get("mode") == MUTED for node in nodes):
        for node in nodes:
            node["mode"] = ALWAYS if node.get("mode") == MUTED else node.get("mode")
        converted.muted = _lost(_convert(ui, literal), converted.prompt)
    return converted


def named_today(kind: str, known: Container[str]) -> str:
    """Return the name that a node type has today, unless `known` has it under the old one."""
    return kind if kind in known else RENAMED.get(kind, kind)


def checked(saved: Canvas) -> Canvas:
    """Return a copy of a canvas, written as the converter reads it; raise NotAWorkflow if it is damaged.

    Links are lists on the canvas and objects in subgraphs; lists that may be absent are there.
    """
    check_shape(saved)
    ui = copy.deepcopy(saved)
    ui["definitions"] = {"subgraphs": (ui.get("definitions") or {}).get("subgraphs") or []}
    for graph in _graphs(ui):
        for part in ("nodes", "links", *(() if graph is ui else ("inputs", "outputs"))):
            graph[part] = [entry for entry in graph.get(part) or [] if entry is not None]
        for node in graph["nodes"]:
            node["inputs"], node["outputs"] = node.get("inputs") or [], node.get("outputs") or []
            node["properties"] = node["properties"] if isinstance(node.get("properties"), dict) else {}
        links = [_link(link) for link in graph["links"]]
        graph["links"] = links if graph is ui else [dict(zip(LINK, link, strict=True)) for link in links]
    _check_subgraphs(ui)
    return ui


def _graphs(ui: Canvas) -> list[Canvas]:
    """Return the canvas and its subgraphs."""
    return [ui, *((ui.get("definitions") or {}).get("subgraphs") or ())]


def _link(link: Json) -> list[Any]:
    """Return [id, origin node, its slot, target node, its slot, type]."""
    ends: list[Any] = [link.get(key) for key in LINK] if isinstance(link, dict) else [*link, None][:6]
    return [ends[0], ends[1], int(ends[2]), ends[3], int(ends[4]), ends[5]]


def _check_subgraphs(ui: Canvas) -> None:
    """Raise NotAWorkflow if a subgraph contains itself, or if the canvas is too large once they are expanded."""
    definitions = {subgraph["id"]: subgraph for subgraph in _graphs(ui)[1:]}
    measured: dict[str, tuple[int, int] | None] = {}  # None while its own nodes are measured

    def measure(graph: Canvas) -> tuple[int, int]:
        nodes, depth = len(graph["nodes"]), 0
        for node in graph["nodes"]:
            if SUBGRAPH.fullmatch(node["type"]) and node["type"] not in definitions and node.get("mode") != MUTED:
                raise NotAWorkflow(f"is damaged: it lacks the subgraph that node {node['id']} is; save it again")
        for kind in (node["type"] for node in graph["nodes"] if node["type"] in definitions):
            if kind not in measured:
                measured[kind] = None
                measured[kind] = measure(definitions[kind])
            inner = measured[kind]
            if inner is None:
                name = definitions[kind].get("name") or kind
                raise NotAWorkflow(f"is damaged: subgraph {name} contains itself; take it out in ComfyUI")
            nodes, depth = nodes + inner[0], max(depth, inner[1] + 1)
        return nodes, depth

    nodes, depth = measure(ui)
    if depth > DEPTH:
        raise NotAWorkflow(f"has subgraphs {depth} deep in each other, more than {DEPTH}; unpack some in ComfyUI")
    if nodes > NODES:
        raise NotAWorkflow(f"has {nodes} nodes once its subgraphs are expanded, more than {NODES}; use fewer of them")


def _hand_on(graph: Canvas, known: Set[str], described: bool) -> None:
    """Make reroutes of other packs' reroutes, and let a widget keep its own value where its primitive has none.

    A pack's reroute is a node that only the canvas has, with one input and one output of its type.
    """
    primitives = [node for node in graph["nodes"] if node["type"] == PRIMITIVE]
    empty = {str(node["id"]) for node in primitives if not _listed(node.get("widgets_values"))}
    links = (link if isinstance(link, list) else list(link.values()) for link in graph["links"])
    origins = {link_id: origin for link_id, origin, *_ in links}
    for node in graph["nodes"]:
        slots = [slot.get("type") for slot in (*node["inputs"], *node["outputs"])]
        alone = len(node["inputs"]) == len(node["outputs"]) == 1 and (slots[0] == slots[1] or "*" in slots)
        if alone and described and node["type"] not in known and _drawn_only(node):
            node["type"] = "Reroute"
        for slot in node["inputs"]:
            if str(origins.get(slot.get("link"))) in empty:
                slot["link"] = None


def _listed(values: Json) -> list[Json]:
    return values if isinstance(values, list) else []


def _adapt(node: Node, object_info: ObjectInfo) -> None:
    """Bring a node into the form that the converter reads."""
    if node["type"] in object_info:
        _trim_values(node, parse(object_info[node["type"]]["input"]))
    if SEARCHED in node["properties"] or node["type"] in HIDDEN:  # the converter reads the class off it, users edit it
        node["properties"][SEARCHED] = node["type"]
    if node["type"] == PRIMITIVE:
        node["mode"] = ALWAYS  # the canvas uses its value even if it is muted
    if node["type"] in HIDDEN:
        node["type"] += " "


def _trim_values(node: Node, declared: Mapping[str, Input]) -> None:
    """Write values that are no widget's in the form of today.

    A seed's control was true or false before April 2023. After the last widget, some canvases have a button as an
    object, for which the converter would drop all values.
    """
    values = node.get("widgets_values")
    if not isinstance(values, list):
        return
    slots = widget_slots(declared, values)
    for control in (at + 1 for name, at in slots.items() if declared[name].seed_control):
        if control not in slots.values() and control < len(values) and isinstance(values[control], bool):
            values[control] = "randomize" if values[control] else "fixed"
    end = max(slots.values(), default=-1) + 1
    if any(isinstance(value, dict) for value in values[end:]):
        node["widgets_values"] = [value for at, value in enumerate(values) if at < end or isinstance(value, str)]


def _without_dynamic_prompts(info: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a description by which the converter leaves {a|b} as it is."""
    declared = {
        section: {name: _literal(entry) for name, entry in inputs.items()}
        for section, inputs in info["input"].items()
        if section != "hidden"
    }
    return {**info, "input": declared}


def _literal(entry: Json) -> Json:
    if len(entry) > 1 and entry[1].get("dynamicPrompts"):
        return [entry[0], {**entry[1], "dynamicPrompts": False}]
    return entry


# comfy-cli


def _convert(ui: Canvas, object_info: ObjectInfo) -> Prompt:
    try:
        from comfy_cli.workflow_to_api import WorkflowConversionError, convert_ui_to_api
    except ModuleNotFoundError:
        raise ValueError("reading a canvas needs comfy-cli; run pip install comfy-cli") from None
    with _caught() as failures:
        try:
            prompt: Prompt = convert_ui_to_api(ui, dict(object_info))
        except WorkflowConversionError as error:
            raise NotAWorkflow(f"cannot be converted ({error}); open it in ComfyUI and save it again") from None
    if failures:
        raise NotAWorkflow(f"is damaged at node {failures[0]}; open it in ComfyUI and save it again")
    nodes = dict(all_nodes(ui))
    for node in prompt.values():
        if node["class_type"].rstrip() in HIDDEN:
            node["class_type"] = node["class_type"].rstrip()
        for name, value in node["inputs"].items():
            source = prompt.get(value[0]) if isinstance(value, list) else None
            if source and source["class_type"].strip() == PRIMITIVE:
                fixed = nodes[value[0]]["widgets_values"][0]
                node["inputs"][name] = {"__value__": fixed} if isinstance(fixed, list) else fixed
    return {node_id: node for node_id, node in prompt.items() if node["class_type"] != PRIMITIVE}


@contextmanager
def _caught() -> Iterator[list[str]]:
    """Collect the ids of nodes that comfy-cli logs as failed and leaves out; nothing that it logs is shown."""
    failures: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR and isinstance(record.args, tuple):
                failures.append(str(record.args[0]))

    log, collector = logging.getLogger("comfy_cli.workflow_to_api"), Collector()
    log.addHandler(collector)
    propagated, log.propagate = log.propagate, False
    try:
        yield failures
    finally:
        log.removeHandler(collector)
        log.propagate = propagated


# What has no effect


def _lost(whole: Prompt, prompt: Prompt) -> dict[str, dict[str, str]]:
    """Return the inputs that are links if no node is muted, and are absent as it is: node id -> input -> source."""
    lost: dict[str, dict[str, str]] = {}
    for node_id, node in prompt.items():
        for name, value in whole[node_id]["inputs"].items():
            if name not in node["inputs"] and isinstance(value, list):
                lost.setdefault(node_id, {})[name] = str(value[0])
    return lost


def _drawn_only(node: Node) -> bool:
    """Whether the canvas made this node without a description by a server."""
    kind = node["type"]
    return SEARCHED not in node["properties"] and kind not in ON_CANVAS and not kind.startswith(group_nodes.PREFIXES)


def all_nodes(ui: Canvas) -> Iterator[tuple[str, Node]]:
    """Yield each node of a canvas with its id in the API format, "5:3" for node 3 in the subgraph that is node 5."""
    definitions = {subgraph["id"]: subgraph for subgraph in _graphs(ui)[1:]}

    def walk(graph: Canvas, prefix: str) -> Iterator[tuple[str, Node]]:
        for node in filter(None, graph.get("nodes") or ()):
            node_id = f"{prefix}{node['id']}"
            yield node_id, node
            if node["type"] in definitions:
                yield from walk(definitions[node["type"]], f"{node_id}:")

    yield from walk(ui, "")
