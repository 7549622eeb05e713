"""Replace what the canvas replaces in the text of widgets when it queues a workflow.

- `{a|b}` in prompts: one of the alternatives; `/* */`, and `//` to the end of the line: nothing. A brace or bar after
  a backslash stands for itself. For inputs declared with dynamicPrompts, as the text of CLIP Text Encode is.
- `%date:yyyy-MM-dd%` in filename_prefix: the time of now, by the letters y, M, d, h, m and s.
- `%Node.widget%` in filename_prefix: a widget's value. The node has this "Node name for S&R", else this title.

The canvas draws an alternative anew each time. Here the workflow's seeds draw it: the same file with the same seeds
gives the same picture, and another seed may choose otherwise.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from .canvas import SEARCHED, all_nodes
from .graph import Library, Workflow, is_link
from .inputs import Json, inputs_of, widget_slots
from .overrides import assign

PREFIX = "filename_prefix"
NAME = re.compile(r"%([^%]+)%")
DATE = re.compile(r"d{1,2}|M{1,2}|h{1,2}|m{1,2}|s{1,2}|y{2,4}")
FORBIDDEN = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')  # in file names, on one system or another


def fill_in(workflow: Workflow, library: Library) -> None:
    """Replace the text of a workflow that was read from a canvas, once, in the prompt.

    The alternatives chosen are written to the canvas too, so that a saved picture shows what made it.
    """
    if not workflow.as_typed:
        return
    workflow.as_typed = False
    for node in workflow.prompt.values():
        prefix = node["inputs"].get(PREFIX)
        if isinstance(prefix, str):
            node["inputs"][PREFIX] = _named(prefix, workflow, library)
    draw = random.Random(repr(list(_seeds(workflow, library))))
    for node_id, node in workflow.prompt.items():
        for name, text in _prompts(node, library):
            chosen = _chosen(text, draw)
            if chosen != text:
                assign(workflow, node_id, name, chosen, library)


def _seeds(workflow: Workflow, library: Library) -> Iterator[Json]:
    for node in workflow.prompt.values():
        if node["class_type"] in library.classes:
            declared = inputs_of(library.classes[node["class_type"]])
            yield from (node["inputs"].get(name) for name, entry in declared.items() if entry.seed_control)


def _prompts(node: dict[str, Any], library: Library) -> list[tuple[str, str]]:
    if node["class_type"] not in library.classes:
        return []
    declared = inputs_of(library.classes[node["class_type"]])
    texts = [
        (name, node["inputs"].get(name)) for name, entry in declared.items() if entry.options.get("dynamicPrompts")
    ]
    return [(name, text) for name, text in texts if isinstance(text, str)]


def _chosen(text: str, draw: random.Random) -> str:
    """Take one alternative of each {a|b} and drop comments, by comfy-cli's parser, which draws from `random`."""
    from comfy_cli.workflow_to_api import process_dynamic_prompt

    state = random.getstate()
    try:
        random.seed(draw.random())
        chosen: str = process_dynamic_prompt(text)
    except RecursionError:
        raise ValueError("a prompt has braces in braces too deep to read; take some out") from None
    finally:
        random.setstate(state)
    return chosen


def _named(prefix: str, workflow: Workflow, library: Library) -> str:
    """Replace the %names% of a prefix; those that name nothing stay, as SaveImage knows others."""

    def replaced(match: re.Match[str]) -> str:
        name = match[1]
        if name.startswith("date:") and "." not in name:
            return _date(name.removeprefix("date:"), datetime.now())
        node, _, widget = name.partition(".")
        value = _value(workflow, library, node, widget) if name.count(".") == 1 else None
        return match[0] if value is None else FORBIDDEN.sub("_", value)

    return NAME.sub(replaced, prefix)


def _date(form: str, now: datetime) -> str:
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def replaced(match: re.Match[str]) -> str:
        letters = match[0]
        if letters[0] == "y":
            return {"yyyy": f"{now.year}", "yy": f"{now.year}"[2:]}.get(letters, letters)
        return f"{parts[letters[0]]:0{len(letters)}}"

    return DATE.sub(replaced, form)


def _value(workflow: Workflow, library: Library, node_name: str, widget: str) -> str | None:
    """Return a widget's value as the canvas writes it; None if there is no such node or widget."""
    nodes = list(all_nodes(workflow.ui or {}))
    named = [pair for pair in nodes if (pair[1].get("properties") or {}).get(SEARCHED, pair[1]["type"]) == node_name]
    titled = [pair for pair in nodes if pair[1].get("title", library.names.get(pair[1]["type"])) == node_name]
    node_id, node = next(iter([*named, *titled]), ("", {}))
    value = workflow.prompt.get(node_id, {"inputs": {}})["inputs"].get(widget)
    if value is not None and not is_link(value):
        return _written(value)
    values = node.get("widgets_values") or []
    if isinstance(values, dict):
        return _written(values[widget]) if widget in values else None
    declared = inputs_of(library.classes[node["type"]]) if node.get("type") in library.classes else {}
    slots = {"value": 0} if node.get("type") == "PrimitiveNode" else widget_slots(declared, values)
    return _written(values[slots[widget]]) if slots.get(widget, len(values)) < len(values) else None


def _written(value: Json) -> str:
    """Write a value as JavaScript does: true, 8 for 8.0, nothing for null."""
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
