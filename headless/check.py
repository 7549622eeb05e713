"""Everything that can be wrong with a workflow, found before any node runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from .graph import Library, Prompt, Workflow, WorkflowError, is_link, label, order, outputs
from .inputs import Input, inputs_of

UNSUPPORTED = {
    "PrimitiveNode": "type its value into the widget it feeds",
    "subgraph": "unpack it in ComfyUI (right click, Unpack Subgraph) and save again",
    "group": "ungroup it in ComfyUI (right click, Convert to Nodes) and save again",
}


def check(workflow: Workflow, library: Library) -> None:
    """Raise a WorkflowError that lists every problem; else leave `workflow.prompt` with values of the right types."""
    prompt = workflow.prompt
    problems = list(workflow.problems)
    for node_id in prompt:
        problems += [f"{label(prompt, node_id)}{problem}" for problem in _node_problems(prompt, node_id, library)]
    if not outputs(prompt, library):
        problems.append("nothing to run: the workflow has no output node, such as Save Image")
    try:
        order(prompt, prompt)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise WorkflowError(problems)


def _node_problems(prompt: Prompt, node_id: str, library: Library) -> Iterator[str]:
    node = prompt[node_id]
    node_class = library.classes.get(node["class_type"])
    if node_class is None:
        yield _unknown(node["class_type"])
        return
    declared = inputs_of(node_class)
    checked_by_class = _checked_by_class(node_class)
    types: dict[str, str] = {}
    sound = True
    for entry in declared.values():
        try:
            if is_link(node["inputs"].get(entry.name)):
                types[entry.name] = _source_type(prompt, node["inputs"][entry.name], entry, library)
                if "input_types" not in checked_by_class:
                    _match(types[entry.name], entry)
            else:
                _constant(node["inputs"], entry, limits=entry.name not in checked_by_class)
        except ValueError as error:
            sound = False
            yield f": {error}"
    if sound and checked_by_class:
        yield from _class_problems(node_class, node["inputs"], declared, checked_by_class, types)


def _unknown(class_type: str) -> str:
    kind = class_type
    if len(class_type) == 36 and class_type.count("-") == 4:  # the canvas names subgraphs by a UUID
        kind = "subgraph"
    elif class_type.startswith(("workflow>", "workflow/")):
        kind = "group"
    if kind in UNSUPPORTED:
        return f" is a {kind}, which this runner does not expand; {UNSUPPORTED[kind]}"
    return f": there is no node type {class_type}; this runner has the SD2 nodes and the common image nodes of ComfyUI"


def _source_type(prompt: Prompt, link: list[Any], entry: Input, library: Library) -> str:
    """The type on the other end of a link; "*" where that end is an unknown node, reported by itself."""
    if len(link) != 2 or not isinstance(link[1], int):
        raise ValueError(f"{entry.name} is {link}; a link is [node id, output number]")
    source, slot = str(link[0]), link[1]
    if source not in prompt:
        raise ValueError(f"{entry.name} is linked to node {source}, which is not in the workflow")
    source_class = library.classes.get(prompt[source]["class_type"])
    if source_class is None:
        return "*"
    types = source_class.RETURN_TYPES  # type: ignore[attr-defined]
    if not 0 <= slot < len(types):
        raise ValueError(f"{entry.name} is linked to output {slot} of {label(prompt, source)}, which has {len(types)}")
    return "COMBO" if isinstance(types[slot], (list, tuple)) else types[slot]


def _match(source_type: str, entry: Input) -> None:
    """ComfyUI's rule: the comma-separated type names of the two ends have one in common, "*" has all."""
    ends = [{name.strip() for name in kind.split(",")} for kind in (source_type, entry.type)]
    if not ends[0] & ends[1] and "*" not in ends[0] | ends[1]:
        raise ValueError(f"{entry.name} takes {entry.type}, but {source_type} is linked to it")


def _constant(inputs: dict[str, Any], entry: Input, *, limits: bool) -> None:
    """Bring a widget's value to its type and check its limits; fill a required one that is absent."""
    if inputs.get(entry.name) is None:
        if not entry.required:
            inputs.pop(entry.name, None)
            return
        if not entry.has_default:
            raise ValueError(f"{entry.name} ({entry.type}) is missing; {'set it' if entry.widget else 'connect it'}")
        inputs[entry.name] = entry.default
    if not entry.widget:
        raise ValueError(f"{entry.name} is {inputs[entry.name]!r}; connect a {entry.type} instead")
    inputs[entry.name] = entry.convert(inputs[entry.name])
    if limits:
        entry.check(inputs[entry.name])


def _checked_by_class(node_class: type) -> set[str]:
    """The inputs a class checks itself in VALIDATE_INPUTS, as ComfyUI reads them from its signature."""
    validate = getattr(node_class, "VALIDATE_INPUTS", None)
    if validate is None:
        return set()
    parameters = inspect.signature(validate).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return set(inputs_of(node_class))
    return {parameter.name for parameter in parameters}


def _class_problems(
    node_class: type, inputs: Mapping[str, Any], declared: Mapping[str, Input], names: set[str], types: dict[str, str]
) -> Iterator[str]:
    """What VALIDATE_INPUTS says: it is given constants, and None in place of what a link will bring."""
    known = {name: None if is_link(inputs.get(name)) else inputs.get(name) for name in names & set(declared)}
    if "input_types" in names:
        known["input_types"] = types
    try:
        answer = node_class.VALIDATE_INPUTS(**known)  # type: ignore[attr-defined]
    except ValueError as error:
        answer = str(error)
    if answer is not True:
        yield f": {answer}" if answer else f": {', '.join(sorted(known))} cannot be used"
