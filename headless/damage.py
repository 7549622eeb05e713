"""Find what is wrong with the shape of a saved canvas, before anything relies on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .inputs import Json

Canvas = dict[str, Any]
Ids = (int, str)
LINK = "id", "origin_id", "origin_slot", "target_id", "target_slot", "type"


class NotAWorkflow(ValueError):
    """A file contains no workflow, or a damaged one; the message continues a sentence that starts with its name."""


def check_shape(ui: Canvas) -> None:
    """Raise NotAWorkflow that names the first damaged entry of a canvas or of its subgraphs."""
    damage = next(_damage(ui), None)
    if damage:
        raise NotAWorkflow(f"is damaged: {damage}; open it in ComfyUI and save it again")


def _damage(ui: Canvas) -> Iterator[str]:
    yield from _graph_damage(ui, "")
    definitions = ui.get("definitions") or {}
    subgraphs = (definitions.get("subgraphs") or []) if isinstance(definitions, dict) else None
    if not isinstance(subgraphs, list):
        yield "its list of subgraphs is no list"
        return
    for subgraph in subgraphs:
        if not isinstance(subgraph, dict) or not isinstance(subgraph.get("id"), str):
            yield "a subgraph has no id"
            return
        where = f" of subgraph {subgraph.get('name') or subgraph['id']}"
        yield from _graph_damage(subgraph, where)
        for side in ("inputs", "outputs"):
            slots = subgraph.get(side) or []
            if not isinstance(slots, list) or not all(map(_is_boundary, slots)):
                yield f"the {side}{where} are no list of slots"


def _is_boundary(slot: Json) -> bool:
    links = (slot.get("linkIds") or []) if isinstance(slot, dict) else None
    named = isinstance(slot, dict) and isinstance(slot.get("name"), str)
    return named and isinstance(links, list) and all(isinstance(link, Ids) for link in links)


def _graph_damage(graph: Mapping[str, Any], where: str) -> Iterator[str]:
    for part in ("nodes", "links"):
        if not isinstance(graph.get(part) or [], list):
            yield f"the {part}{where} are no list"
            return
    for node in graph.get("nodes") or []:
        if not isinstance(node, dict) or not isinstance(node.get("id"), Ids):
            yield f"a node{where} has no id"
        elif not isinstance(node.get("type"), str):
            yield f"node {node['id']}{where} has no type"
        else:
            yield from (f"node {node['id']}{where} {damage}" for damage in _node_damage(node))
    for link in graph.get("links") or []:
        ends = [link.get(key) for key in LINK] if isinstance(link, dict) else link
        if ends is not None and not _is_link(ends):
            yield f"a link{where} has not two ends"


def _is_link(ends: Json) -> bool:
    if not isinstance(ends, list) or len(ends) < 5:
        return False
    slots = (str(ends[at]).removeprefix("-") for at in (2, 4))
    return all(isinstance(ends[at], Ids) for at in (0, 1, 3)) and all(slot.isdecimal() for slot in slots)


def _node_damage(node: Mapping[str, Any]) -> Iterator[str]:
    for side in ("inputs", "outputs"):
        slots = node.get(side) or []
        if not isinstance(slots, list) or not all(isinstance(slot, dict) for slot in slots):
            yield f"has {side} that are no list of slots"
            return
    for slot in node.get("inputs") or []:
        if not isinstance(slot.get("name"), str):
            yield "has an input without a name"
        elif not isinstance(slot.get("link"), (int, str, type(None))):
            yield f"has a damaged link to {slot['name']}"
        elif not isinstance(slot.get("widget"), (dict, type(None))):
            yield f"has a damaged widget for {slot['name']}"
    if not isinstance(node.get("widgets_values"), (list, dict, type(None))):
        yield "has widget values that are no list"
