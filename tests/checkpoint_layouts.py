"""Names and shapes of the tensors in the official files, as the authors' own model classes have them.

One file per kind in tests/layouts, nested by attribute path; exponential-moving-average copies are left out.
"""

import json
from pathlib import Path

FOLDER = Path(__file__).parent / "layouts"


def layout(kind, prefix=""):
    """Shape by name of every tensor under the prefix, which is cut off: {"out.2.bias": (4,), ...}."""
    tensors = dict(_flatten(json.loads((FOLDER / f"{kind}.json").read_text()), ""))
    return {name[len(prefix) :]: shape for name, shape in tensors.items() if name.startswith(prefix)}


def _flatten(tree, path):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", tuple(value)
