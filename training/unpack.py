"""Turn a demo checkpoint into training states, so that training goes on from the file alone.

    python -m sd2_family.training.unpack models/demo/sd2-demo-inpaint.safetensors

It writes `autoencoder.pt` and `start.pt` into `--folder`. The phases `base` and `inpaint` go on from these. So do the
other phases where there is no `base.pt`; for them, unpack sd2-demo-base.safetensors (for `unclip`: sd2-demo-v).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ..models.weights_file import read
from .export import PREFIXES


def unpacked(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Convert the tensors of a checkpoint to float32 weights of each state, by their names there."""
    found: dict[str, dict[str, Tensor]] = {state: {} for state, _, _ in PREFIXES}
    for state, ours, theirs in PREFIXES:
        for key in tensors:
            if key.startswith(theirs):
                found[state][ours + key.removeprefix(theirs)] = tensors[key].float()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "runs")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for state, weights in unpacked(read(arguments.file).tensors).items():
        torch.save({"average": weights}, arguments.folder / f"{state}.pt")


if __name__ == "__main__":
    main()
