"""Run the nodes of a checked workflow, each at most once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from . import graph
from .canvas import Prompt
from .canvas_text import fill_in
from .check import check
from .graph import Library, Workflow, is_link, label, order, outputs, title_of
from .inputs import Json, hidden_of, inputs_of
from .lists import call


class NodeError(RuntimeError):
    """A node failed while running; the message gives its name and the cause."""


class Executor:
    """Run workflows in turn; a node whose class and inputs are unchanged keeps its result.

    started: called with each node's title just before it runs.
    """

    def __init__(self, library: Library, started: Callable[[str], None] = lambda title: None) -> None:
        self.library = library
        self.started = started
        self.objects: dict[str, object] = {}
        self.results: dict[str, tuple[list[Any], ...]] = {}

    def read(self, path: Path) -> Workflow:
        """Read a workflow from a file."""
        return graph.read(path, self.library)

    def check(self, workflow: Workflow) -> None:
        """Fill in the text that a canvas replaces; raise a WorkflowError that lists every problem of `workflow`."""
        fill_in(workflow, self.library)
        check(workflow, self.library)

    def run(self, workflow: Workflow) -> Iterator[tuple[str, dict[str, Any]]]:
        """Run a checked workflow and yield (node id, its UI results) as each output node finishes."""
        prompt = workflow.prompt
        targets = outputs(prompt, self.library)
        keys: dict[str, str] = {}
        try:
            for node_id in order(prompt, targets):
                shown = self._run_node(workflow, node_id, keys)
                if node_id in targets:
                    yield node_id, shown
        finally:
            self.results = {key: self.results[key] for key in keys.values() if key in self.results}

    def _key(self, prompt: Prompt, node_id: str, keys: Mapping[str, str]) -> str:
        """Return a cache key: nodes with the same class, values and sources share it."""
        node = prompt[node_id]
        node_class = self.library.classes[node["class_type"]]
        inputs = {
            name: [keys[str(value[0])], value[1]] if is_link(value) else [value]
            for name, value in ((name, node["inputs"][name]) for name in _given(node_class, node["inputs"]))
        }
        key = [node["class_type"], inputs, self._fingerprint(node_class, node["inputs"], keys)]
        if "UNIQUE_ID" in hidden_of(node_class).values() or getattr(node_class, "NOT_IDEMPOTENT", False):
            key.append(node_id)
        return hashlib.sha256(json.dumps(key, default=repr).encode()).hexdigest()

    def _fingerprint(self, node_class: type, inputs: Mapping[str, Any], keys: Mapping[str, str]) -> Json:
        """Return the value of IS_CHANGED, which covers files and other inputs outside the graph."""
        if not hasattr(node_class, "IS_CHANGED"):
            return None
        given = {name: self._values(inputs[name], keys)[-1] for name in _given(node_class, inputs)}
        changed = node_class.IS_CHANGED(**given)
        return uuid4().hex if changed != changed else changed  # NaN means "always run again"

    def _run_node(self, workflow: Workflow, node_id: str, keys: dict[str, str]) -> dict[str, Any]:
        """Run one node unless its result is cached, add its key to `keys`, and return its UI results."""
        node = workflow.prompt[node_id]
        node_class = self.library.classes[node["class_type"]]
        try:
            keys[node_id] = self._key(workflow.prompt, node_id, keys)
            if keys[node_id] in self.results and not getattr(node_class, "OUTPUT_NODE", False):
                return {}
            self.started(title_of(node))
            arguments = {name: self._values(node["inputs"][name], keys) for name in _given(node_class, node["inputs"])}
            with torch.inference_mode():
                method = getattr(self._object(node_id, node_class), node_class.FUNCTION)  # type: ignore[attr-defined]
                shown, result = call(node_class, method, arguments, _hidden(node_class, workflow, node_id))
        except Exception as error:
            kind = "" if isinstance(error, (ValueError, RuntimeError, OSError)) else f"{type(error).__name__}: "
            raise NodeError(f"{label(workflow.prompt, node_id)} failed: {kind}{error}") from error
        self.results[keys[node_id]] = result
        return shown

    def _object(self, node_id: str, node_class: type) -> object:
        if not isinstance(self.objects.get(node_id), node_class):
            self.objects[node_id] = node_class()
        return self.objects[node_id]

    def _values(self, value: Json, keys: Mapping[str, str]) -> list[Any]:
        return self.results[keys[str(value[0])]][value[1]] if is_link(value) else [value]


def _given(node_class: type, inputs: Mapping[str, Any]) -> list[str]:
    return [name for name in inputs_of(node_class) if name in inputs]


def _hidden(node_class: type, workflow: Workflow, node_id: str) -> dict[str, Any]:
    known = {"PROMPT": workflow.prompt, "EXTRA_PNGINFO": workflow.extra_pnginfo, "UNIQUE_ID": node_id}
    return {name: known.get(kind) for name, kind in hidden_of(node_class).items()}
