"""Describe node classes as a ComfyUI server does at /object_info, which is what converters of workflows read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

FLAGS = {"deprecated": "DEPRECATED", "experimental": "EXPERIMENTAL", "api_node": "API_NODE"}


def describe_all(classes: Mapping[str, type], names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return an entry for each node type; `names` are the display names. Lists of files are those of this moment."""
    return {name: describe(name, node_class, names.get(name, name)) for name, node_class in classes.items()}


def describe(name: str, node_class: type, display_name: str) -> dict[str, Any]:
    """Return the /object_info entry of one V1 node class, in JSON's types (tuples become lists)."""
    declared = node_class.INPUT_TYPES()  # type: ignore[attr-defined]
    outputs = node_class.RETURN_TYPES  # type: ignore[attr-defined]
    entry = {
        "input": declared,
        "input_order": {section: list(inputs) for section, inputs in declared.items()},
        "is_input_list": getattr(node_class, "INPUT_IS_LIST", False),
        "output": outputs,
        "output_is_list": getattr(node_class, "OUTPUT_IS_LIST", [False] * len(outputs)),
        "output_name": getattr(node_class, "RETURN_NAMES", outputs),
        "name": name,
        "display_name": display_name,
        "description": getattr(node_class, "DESCRIPTION", ""),
        "python_module": node_class.__module__,
        "category": getattr(node_class, "CATEGORY", "sd"),
        "output_node": bool(getattr(node_class, "OUTPUT_NODE", False)),
        "has_intermediate_output": getattr(node_class, "HAS_INTERMEDIATE_OUTPUT", False),
    }
    if hasattr(node_class, "OUTPUT_TOOLTIPS"):
        entry["output_tooltips"] = node_class.OUTPUT_TOOLTIPS
    if hasattr(node_class, "SEARCH_ALIASES"):
        entry["search_aliases"] = node_class.SEARCH_ALIASES
    entry |= {key: True for key, flag in FLAGS.items() if getattr(node_class, flag, False)}
    described: dict[str, Any] = json.loads(json.dumps(entry))
    return described
