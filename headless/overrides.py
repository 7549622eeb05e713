"""Implement `--set NODE.INPUT=VALUE`, which changes a workflow before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .canvas import Prompt, all_nodes
from .graph import Library, Workflow, is_link, label, title_of
from .inputs import Input, Json, inputs_of, widget_slots


def set_value(workflow: Workflow, setting: str, library: Library) -> None:
    """Apply one `NODE.INPUT=VALUE` to the prompt and to the canvas that is embedded in images.

    If it cannot be applied, the error is added to the workflow's problems.
    """
    try:
        _set_value(workflow, setting, library)
    except ValueError as error:
        workflow.problems.append(f"--set {setting}: {error}")


def _set_value(workflow: Workflow, setting: str, library: Library) -> None:
    target, equals, text = setting.partition("=")
    node, dot, name = (part.strip() for part in target.rpartition("."))
    if not equals or not dot:
        raise ValueError("write NODE.INPUT=VALUE, such as Sampler.seed=7")
    node_id = _find(workflow.prompt, node)
    node_class = library.classes.get(workflow.prompt[node_id]["class_type"])
    if node_class is None:
        return  # `check` reports the unknown node
    widgets = {key: entry for key, entry in inputs_of(node_class).items() if entry.widget}
    who = label(workflow.prompt, node_id)
    if name not in widgets:
        raise ValueError(f"{who} has no widget {name!r}; it has {', '.join(widgets) or 'none'}")
    inputs = workflow.prompt[node_id]["inputs"]
    if is_link(inputs.get(name)):
        raise ValueError(f"{name} of {who} comes from {label(workflow.prompt, str(inputs[name][0]))}; set it there")
    assign(workflow, node_id, name, widgets[name].convert(text), library)


def assign(workflow: Workflow, node_id: str, name: str, value: Json, library: Library) -> None:
    """Set one input of a node in the prompt and on the canvas.

    A subgraph that the canvas has several times is there only once, so that the canvas shows the last value set.
    """
    workflow.prompt[node_id]["inputs"][name] = value
    declared = inputs_of(library.classes[workflow.prompt[node_id]["class_type"]])
    node = next((node for key, node in all_nodes(workflow.ui or {}) if key == node_id), None)
    if node is not None:
        _set_on_canvas(node, declared, name, value)


def _find(prompt: Prompt, node: str) -> str:
    if node in prompt:
        return node
    titled = [node_id for node_id, entry in prompt.items() if title_of(entry) == node]
    if len(titled) == 1:
        return titled[0]
    if titled:
        raise ValueError(f"{node!r} is the title of nodes {', '.join(titled)}; use one of these ids")
    known = ", ".join(f'{node_id} "{title_of(entry)}"' for node_id, entry in prompt.items())
    raise ValueError(f"there is no node {node!r}; the workflow has {known}")


def _set_on_canvas(node: dict[str, Any], declared: Mapping[str, Input], name: str, value: Json) -> None:
    values = node.get("widgets_values") or []
    if isinstance(values, dict):
        values[name] = value
        return
    at = widget_slots(declared, values)[name]
    values += [None] * (at + 1 - len(values))
    values[at] = value
    node["widgets_values"] = values
