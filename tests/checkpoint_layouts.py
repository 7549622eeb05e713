"""Names and shapes of the tensors in the official files, as the authors' own model classes have them.

One file per kind in tests/layouts, nested by attribute path; exponential-moving-average copies are left out.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

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


def write_full_width(path, kind):
    """A file of the official size in float16: small random weights, norms at 1, so that nothing overflows."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for key, shape in layout(kind).items():
        scale = 1.0 if len(shape) == 1 and key.endswith("weight") else 0.0
        tensors[key] = (scale + 0.01 * torch.randn(shape, generator=generator)).half()
    save_file(tensors, path)
    return path
