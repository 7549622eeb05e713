"""Replace group nodes, the canvas's earlier form of subgraphs, by the nodes that they consist of.

A canvas keeps a group's nodes, and the links between them by position in the group, under extra.groupNodes. A group
node has the type "workflow>NAME" ("workflow/NAME" at first), an input for each unlinked input inside, an output for
each one that is not used inside only, and the values of all widgets inside as its own. Its nodes get the ids "ID:0",
"ID:1" and so on.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from .damage import Canvas, NotAWorkflow, check_shape
from .inputs import Json, parse, widget_slots

Node = dict[str, Any]
ObjectInfo = Mapping[str, Mapping[str, Any]]

PREFIXES = "workflow>", "workflow/"
RUNS = (0, None)  # modes; a muted or bypassed group stays one node, which the converter leaves out
SEEDS = "seed", "noise_seed"


def expand(ui: Canvas, object_info: ObjectInfo) -> None:
    """Replace each group node whose group the canvas has; raise NotAWorkflow if the group is damaged."""
    extra = ui.get("extra")
    groups = extra.get("groupNodes") if isinstance(extra, dict) else None
    nodes: list[Node] = []
    for node in ui["nodes"]:
        name = node["type"].removeprefix(PREFIXES[0]).removeprefix(PREFIXES[1])
        data = groups.get(name) if isinstance(groups, dict) and node["type"].startswith(PREFIXES) else None
        if data is None or node.get("mode") not in RUNS:
            nodes.append(node)
        else:
            nodes += Group(name, data, object_info).expand(node, ui["links"])
    ui["nodes"] = nodes


class Group:
    """The definition of a group."""

    def __init__(self, name: str, data: Json, object_info: ObjectInfo) -> None:
        nodes = data.get("nodes") if isinstance(data, dict) else None
        if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
            raise NotAWorkflow(f"is damaged: group {name} has no list of nodes; open it in ComfyUI and save it again")
        self.nodes: list[Node] = [{**node, "id": at} for at, node in enumerate(nodes)]
        check_shape({"nodes": self.nodes})
        links = [link for link in _lists(data.get("links")) if len(link) >= 4]
        self.links = [link for link in links if all(isinstance(end, int) for end in link[:4])]  # else from outside
        self.typed = [link for link in links if len(link) > 5]
        self.fed = {(link[2], link[3]) for link in self.links}
        self.used = {(link[0], link[1]) for link in self.links}
        external = [end for end in _lists(data.get("external")) if len(end) >= 2]
        self.shared = {(end[0], end[1]) for end in external if isinstance(end[0], int)}  # not whole nodes
        self.config = data.get("config")
        self.declared = [self._declared(at, node, object_info) for at, node in enumerate(self.nodes)]

    def _declared(self, at: int, node: Node, object_info: ObjectInfo) -> dict[str, Any]:
        """Return the inputs of a node inside: name -> entry of INPUT_TYPES."""
        if node["type"] in ("PrimitiveNode", "Reroute"):
            kinds = [link[5] for link in self.typed if at in (link[0], link[2])]
            if node["type"] == "PrimitiveNode":
                return {"value": [kinds[0], {"control_after_generate": True}]} if kinds else {}
            return {} if (at, 0) in self.fed else {str(kind): ["*"] for kind in kinds[:1]}
        declared = object_info.get(node["type"], {}).get("input", {})
        return {**declared.get("required", {}), **declared.get("optional", {})}

    def expand(self, node: Node, links: list[list[Any]]) -> list[Node]:
        """Return the nodes that a group node stands for; `links` of the canvas get theirs, and lead to them."""
        inner = copy.deepcopy(self.nodes)
        for at, entry in enumerate(inner):
            entry["id"] = f"{node['id']}:{at}"
            entry["inputs"], entry["properties"] = entry.get("inputs") or [], entry.get("properties") or {}
            for slot in entry["inputs"]:
                slot["link"] = None
        number = max((link[0] for link in links if isinstance(link[0], int)), default=0)
        for count, (origin, slot, target, into, *_) in enumerate(self.links, number + 1):
            if origin < len(inner) and target < len(inner) and into < len(inner[target]["inputs"]):
                inner[target]["inputs"][into]["link"] = count
                links.append([count, inner[origin]["id"], slot, inner[target]["id"], into, None])
        names = self._names()
        outside = {slot["name"]: slot.get("link") for slot in node["inputs"]}
        for (at, name), shown in names.items():
            for slot in inner[at]["inputs"]:
                if slot["name"] == name or inner[at]["type"] == "Reroute":
                    slot["link"] = slot["link"] if slot["link"] is not None else outside.get(shown)
        self._set_widgets(inner, names, node.get("widgets_values"))
        ends = list(self._outputs(inner))
        for link in links:
            if link[1] == node["id"] and 0 <= link[2] < len(ends):
                link[1], link[2] = ends[link[2]]
        return inner

    def _names(self) -> dict[tuple[int, str], str]:
        """Return the group node's name for each input and widget inside, by the canvas's rules for double names."""
        seen: dict[str, int] = {}
        names: dict[tuple[int, str], str] = {}
        for last in (False, True):  # widgets that were turned into inputs come after all others
            for at, declared in enumerate(self.declared):
                widgets = {name: entry.widget for name, entry in parse({"required": declared}).items()}
                for name in sorted(declared, key=lambda name: not widgets[name]):
                    if last == self._converted(at, name) and not self._fed(at, name):
                        names[at, name] = self._name(at, name, seen)
        return names

    def _name(self, at: int, name: str, seen: dict[str, int]) -> str:
        node = self.nodes[at]
        labels = [slot.get("label") for slot in node.get("inputs") or [] if slot["name"] == name]
        key = shown = str(_at(self.config, str(at), "input", name, "name") or next(filter(None, labels), name))
        if shown in seen or (node["type"] == "PrimitiveNode" and node.get("title")):
            title = node.get("title") or node["type"]
            key = f"{title} {name}"
            shown = f"{title} {seen[key]} {name}" if key in seen else key
        seen[key] = seen.get(key, 1) + 1
        return shown

    def _converted(self, at: int, name: str) -> bool:
        slots = self.nodes[at].get("inputs") or []
        return any(slot["name"] == name and (slot.get("widget") or {}).get("name") == name for slot in slots)

    def _fed(self, at: int, name: str) -> bool:
        slots = self.nodes[at].get("inputs") or []
        return any(slot["name"] == name and (at, index) in self.fed for index, slot in enumerate(slots))

    def _set_widgets(self, inner: list[Node], names: Mapping[tuple[int, str], str], values: Json) -> None:
        """Give the nodes inside the group node's widget values.

        Canvases differ in whether a widget that was turned into an input, and an image's upload button, have a value;
        the form whose number of values is the saved one is taken.
        """
        if not isinstance(values, list) or not values:
            return
        forms = [self._widgets(names, *form) for form in product((False, True), (True, False))]
        slots = [widget_slots(parse({"required": form}), values) for form in forms]
        ends = [max(slot.values(), default=-1) + 1 for slot in slots]
        fitting = [slot for slot, end in zip(slots, ends, strict=True) if len(values) - 1 <= end <= len(values)]
        exact = [slot for slot, end in zip(slots, ends, strict=True) if end == len(values)]
        chosen = next(iter([*exact, *fitting, slots[0]]))
        for (at, name), shown in names.items():
            if shown in chosen and chosen[shown] < len(values):
                self._set_widget(inner[at], at, name, values[chosen[shown]])

    def _widgets(self, names: Mapping[tuple[int, str], str], converted: bool, uploads: bool) -> dict[str, Any]:
        widgets: dict[str, Any] = {}
        for (at, name), shown in names.items():
            kind, *more = self.declared[at][name]
            options = {**(more[0] if more else {})}
            upload = options.pop("image_upload", False)
            if name in SEEDS:
                options["control_after_generate"] = True
            if self._has_value(at, name) and (converted or not self._converted(at, name)):
                widgets[shown] = [kind, options]
            if upload and uploads:
                widgets[f"{at} upload"] = ["STRING", {}]
        return widgets

    def _has_value(self, at: int, name: str) -> bool:
        """Whether a node inside was saved with a value for this widget, which newer versions of its class may add."""
        values = self.nodes[at].get("widgets_values")
        if not isinstance(values, list):
            return True
        return widget_slots(parse({"required": self.declared[at]}), values).get(name, 0) < len(values)

    def _set_widget(self, node: Node, at: int, name: str, value: Json) -> None:
        values = node.setdefault("widgets_values", None) or []
        if isinstance(values, dict):
            values[name] = value
            return
        slot = widget_slots(parse({"required": self.declared[at]}), values)[name]
        values = [*values, *[None] * (slot + 1 - len(values))]
        values[slot] = value
        node["widgets_values"] = values

    def _outputs(self, inner: Sequence[Node]) -> Iterator[tuple[str, int]]:
        """Yield the node inside and its slot for each output of a group node."""
        for at, node in enumerate(inner):
            for slot in range(len(node.get("outputs") or [])):
                used_inside_only = (at, slot) in self.used and (at, slot) not in self.shared
                visible = _at(self.config, str(at), "output", str(slot), "visible")
                if (not used_inside_only) if visible is None else visible:
                    yield node["id"], slot


def _at(data: Json, *keys: str) -> Json:
    """Return an entry of dicts in dicts; None if it is not there."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _lists(entries: Json) -> list[list[Any]]:
    return [entry for entry in entries if isinstance(entry, list)] if isinstance(entries, list) else []
