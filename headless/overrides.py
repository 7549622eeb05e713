"""Implement `--set NODE.INPUT=VALUE`, which changes a workflow before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .graph import Library, Prompt, Workflow, is_link, label, title_of, widget_slots
from .inputs import Input, Json, inputs_of


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
    """Set one input of a node in the prompt and on the canvas."""
    workflow.prompt[node_id]["inputs"][name] = value
    declared = inputs_of(library.classes[workflow.prompt[node_id]["class_type"]]).values()
    _set_on_canvas(workflow.ui, node_id, [entry for entry in declared if entry.widget], name, value)


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


def _set_on_canvas(ui: dict[str, Any] | None, node_id: str, widgets: Sequence[Input], name: str, value: Json) -> None:
    node = next((node for node in (ui or {}).get("nodes", ()) if str(node["id"]) == node_id), None)
    if node is None:
        return
    values = node.setdefault("widgets_values", [])
    if isinstance(values, dict):
        values[name] = value
        return
    at = widget_slots(widgets, values)[0][name]
    values.extend([None] * (at + 1 - len(values)))
    values[at] = value
