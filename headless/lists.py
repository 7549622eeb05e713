"""Call a node on lists of values, by ComfyUI's rule: once for each item, or once with the lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Lists = dict[str, list[Any]]
"""A list of values for each input; a single value is a list of one."""


Returned = tuple[dict[str, list[Any]], tuple[list[Any], ...]]
"""What a node shows, and a list of values for each of its outputs."""


def call(node_class: type, method: Callable[..., Any], inputs: Lists, hidden: Mapping[str, Any]) -> Returned:
    """Run a node's method.

    A node with INPUT_IS_LIST gets the lists in one call. Any other is called once for each item of the longest list;
    a shorter list repeats its last item. OUTPUT_IS_LIST says which outputs are lists already.
    """
    if getattr(node_class, "INPUT_IS_LIST", False):
        returned = [method(**inputs, **{name: [value] for name, value in hidden.items()})]
    else:
        count = max(map(len, inputs.values()), default=1)
        returned = [
            method(**{name: values[min(index, len(values) - 1)] for name, values in inputs.items()}, **hidden)
            for index in range(count if all(inputs.values()) else 0)
        ]
    shown: dict[str, list[Any]] = {}
    results = []
    for one in returned:
        parts, result = (one.get("ui", {}), one.get("result", ())) if isinstance(one, dict) else ({}, one)
        results.append(tuple(result))
        for name, values in parts.items():
            shown.setdefault(name, []).extend(values)
    return shown, _joined(node_class, results)


def _joined(node_class: type, results: list[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    """Join the results of several calls output by output."""
    types = node_class.RETURN_TYPES  # type: ignore[attr-defined]
    is_list = getattr(node_class, "OUTPUT_IS_LIST", (False,) * len(types))
    if not results:
        return tuple([] for _ in types)
    return tuple(
        [item for result in results for item in (result[slot] if is_list[slot] else (result[slot],))]
        for slot in range(len(results[0]))
    )
