"""Lay a demo checkpoint out as the phases that made it, so that training goes on from the file alone.

    python -m sd2_family.training.unpack models/demo/sd2-demo-inpaint.safetensors

Writes `autoencoder.pt` and `base.pt` into `--folder`: `v` and `inpaint` start from these as from phases that were run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ..models.files import read
from .export import PREFIXES


def phases(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Float32 weights of each phase by the names they have there, from a checkpoint's."""
    found: dict[str, dict[str, Tensor]] = {"autoencoder": {}, "base": {}}
    for key, tensor in tensors.items():
        phase, ours, theirs = next(names for names in PREFIXES if key.startswith(names[2]))
        found[phase][ours + key.removeprefix(theirs)] = tensor.float()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "runs")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for phase, weights in phases(read(arguments.file).tensors).items():
        torch.save({"average": weights}, arguments.folder / f"{phase}.pt")


if __name__ == "__main__":
    main()
