"""Check a workflow for errors before any node runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from ..backends.queued import checking
from .canvas import Prompt
from .graph import Library, Workflow, WorkflowError, is_link, label, needed, order, outputs
from .inputs import Input, inputs_of
from .instead import instead_of
from .packs import pack_of


def check(workflow: Workflow, library: Library) -> None:
    """Raise a WorkflowError that lists every problem, or convert the values in `workflow.prompt` to their types.

    Nodes that no output needs are not looked at, as they will not run.
    """
    prompt = workflow.prompt
    problems = list(workflow.problems)
    effective = needed(prompt, library)
    running = [node_id for node_id in prompt if node_id in effective]
    for node_id in running:
        with checking(prompt):
            found = [*_node_problems(workflow, node_id, library)]
        problems += [f"{label(prompt, node_id)}{problem}" for problem in found]
    if not outputs(prompt, library):
        problems.append("the workflow has no output node; add one, such as Save Image")
    try:
        order(prompt, running)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise WorkflowError(problems)


def _node_problems(workflow: Workflow, node_id: str, library: Library) -> Iterator[str]:
    prompt = workflow.prompt
    node = prompt[node_id]
    node_class = library.classes.get(node["class_type"])
    if node_class is None:
        yield _unknown(node["class_type"], workflow, library)
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


def _unknown(class_type: str, workflow: Workflow, library: Library) -> str:
    pack, known = pack_of(class_type, workflow.ui), instead_of(class_type, library)
    owner = f" of {pack}" if pack else ""
    use = f"use {known} in its place, or " if known else ""
    return f": node type {class_type}{owner} needs ComfyUI; {use}run the workflow with --comfyui or --server"


def _source_type(prompt: Prompt, link: list[Any], entry: Input, library: Library) -> str:
    """Return the type of a link's source; "*" if the source is an unknown node, which is reported separately."""
    if len(link) != 2 or not isinstance(link[1], int):
        raise ValueError(f"{entry.name} is {link}; write a link as [node id, output number]")
    source, slot = str(link[0]), link[1]
    if source not in prompt:
        raise ValueError(f"{entry.name} is linked to node {source}, which is not in the workflow; connect it again")
    source_class = library.classes.get(prompt[source]["class_type"])
    if source_class is None:
        return "*"
    types = source_class.RETURN_TYPES  # type: ignore[attr-defined]
    if not 0 <= slot < len(types):
        raise ValueError(
            f"{entry.name} is linked to output {slot} of {label(prompt, source)}, which has {len(types)} outputs; "
            "connect it again"
        )
    return "COMBO" if isinstance(types[slot], (list, tuple)) else types[slot]


def _match(source_type: str, entry: Input) -> None:
    """Apply ComfyUI's rule: both ends share one of their comma-separated type names, or one end is "*"."""
    ends = [{name.strip() for name in kind.split(",")} for kind in (source_type, entry.type)]
    if not ends[0] & ends[1] and "*" not in ends[0] | ends[1]:
        raise ValueError(
            f"{entry.name} takes {entry.type}, but is linked to {source_type}; connect {entry.type} instead"
        )


def _constant(inputs: dict[str, Any], entry: Input, *, limits: bool) -> None:
    """Convert a widget's value to its type and check its limits; fill in a missing required value."""
    if inputs.get(entry.name) is None:
        if not entry.required:
            inputs.pop(entry.name, None)
            return
        if not entry.has_default:
            raise ValueError(f"{entry.name} ({entry.type}) is missing; {'set it' if entry.widget else 'connect it'}")
        inputs[entry.name] = entry.default
    if not entry.widget:
        raise ValueError(f"{entry.name} is {inputs[entry.name]!r}; connect {entry.type} instead")
    inputs[entry.name] = entry.convert(inputs[entry.name])
    if limits:
        entry.check(inputs[entry.name])


def _checked_by_class(node_class: type) -> set[str]:
    """Return the inputs that a class checks in VALIDATE_INPUTS, from its signature, as ComfyUI does."""
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
    """Yield the problems that VALIDATE_INPUTS finds; it gets constants, and None for linked inputs."""
    known = {name: None if is_link(inputs.get(name)) else inputs.get(name) for name in names & set(declared)}
    if "input_types" in names:
        known["input_types"] = types
    try:
        answer = node_class.VALIDATE_INPUTS(**known)  # type: ignore[attr-defined]
    except ValueError as error:
        answer = str(error)
    if answer is not True:
        yield f": {answer}" if answer else f": {', '.join(sorted(known))} cannot be used; choose another value"
