"""The pack that a node type belongs to, from what is on this disk."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

CORE = "comfy-core"  # ComfyUI's own nodes, as the canvas names their pack
NODE_MAP = "extension-node-map.json"  # ComfyUI-Manager's: {address: [[node types], {"title_aux", "nodename_pattern"}]}
PLACES = (  # of it in a ComfyUI: in a clone of the Manager, in its caches, in an installed one
    f"custom_nodes/*/{NODE_MAP}",
    f"user/*/ComfyUI-Manager/cache/*{NODE_MAP}",
    f"user/__manager/cache/*{NODE_MAP}",
    f".venv/lib/*/site-packages/comfyui_manager/{NODE_MAP}",
    f"venv/lib/*/site-packages/comfyui_manager/{NODE_MAP}",
)


def pack_of(class_type: str, ui: Mapping[str, Any] | None) -> str | None:
    """Return the pack of a node type: its id in the registry or its repository; None if it is not known.

    The canvas `ui` says it for most nodes, else the ComfyUI-Manager in the ComfyUI that comfy-cli knows. Nothing is
    looked up on the network.
    """
    named = next(_named(class_type, ui or {}), None)
    return (named or _in_node_maps(class_type)) if named != CORE else None


def _named(class_type: str, ui: Mapping[str, Any]) -> Iterator[str]:
    """Yield the packs that a canvas names for a node type; subgraphs have nodes of their own."""
    graphs = [ui, *_list(ui.get("definitions"), "subgraphs")]
    for node in (node for graph in graphs for node in _list(graph, "nodes")):
        properties = node.get("properties") if isinstance(node, dict) and node.get("type") == class_type else None
        if isinstance(properties, dict):
            yield from (str(properties[key]) for key in ("cnr_id", "aux_id") if properties.get(key))


def _list(graph: object, key: str) -> Iterable[Any]:
    found = graph.get(key) if isinstance(graph, dict) else None
    return found if isinstance(found, list) else []


def _in_node_maps(class_type: str) -> str | None:
    for address, (types, pattern) in _node_maps().items():
        if class_type in types or (pattern and pattern.search(class_type)):
            return address
    return None


@cache
def _node_maps() -> dict[str, tuple[frozenset[str], re.Pattern[str] | None]]:
    """Return the entries of all node maps: the repository's address -> its node types, and a pattern for others."""
    found: dict[str, tuple[frozenset[str], re.Pattern[str] | None]] = {}
    workspace = _workspace()
    for path in (path for place in PLACES if workspace for path in sorted(workspace.glob(place))):
        with suppress(OSError, ValueError, TypeError, AttributeError, re.error):  # another version's, or half written
            for address, (types, about) in json.loads(path.read_text(encoding="utf-8")).items():
                pattern = about.get("nodename_pattern")
                found.setdefault(address, (frozenset(types), re.compile(pattern) if pattern else None))
    return found


def _workspace() -> Path | None:
    with suppress(ImportError):  # without git
        from comfy_cli.workspace_manager import WorkspaceManager  # slow, and only an error needs it

        return Path(WorkspaceManager().get_workspace_path()[0])
    return None
