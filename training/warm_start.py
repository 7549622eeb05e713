"""The weights that a phase goes on from, fitted to a model with more or fewer inputs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .networks import TextToImage
from .trainer import averaged

FIRST_LAYER = "unet.input_blocks.0.0"


def predecessor(phase: str, folder: Path) -> Path | None:
    """Return the state that a phase goes on from, None where it starts from random weights.

    It is the base (for `unclip` the v model), or a file written by `training.unpack`.
    """
    before, unpacked = folder / ("v.pt" if phase == "unclip" else "base.pt"), folder / "start.pt"
    if phase == "base":
        return unpacked if unpacked.exists() else None
    order = (unpacked, before) if phase == "inpaint" else (before, unpacked)
    return next((path for path in order if path.exists()), before)


def starting_weights(phase: str, folder: Path) -> dict[str, Tensor]:
    """Read the averaged weights that a phase goes on from."""
    path = predecessor(phase, folder)
    if path is None:
        raise ValueError(f"the phase {phase} starts from random weights; unpack a checkpoint into {folder} to resume")
    return averaged(path)


def resume(model: TextToImage, weights: dict[str, Tensor], masked: Tensor | None = None) -> None:
    """Load weights whose first convolution may have other inputs; the network starts with the same outputs.

    Inputs that the weights lack start at zero. Inputs that the model lacks, mask and masked latents, are folded into
    the bias with the values `masked` [5] that they have when everything is masked.
    """
    weight, bias = weights[f"{FIRST_LAYER}.weight"], weights[f"{FIRST_LAYER}.bias"]
    resized = torch.zeros_like(model.state_dict()[f"{FIRST_LAYER}.weight"])
    shared = min(resized.shape[1], weight.shape[1])
    resized[:, :shared] = weight[:, :shared]
    removed = weight[:, shared:]
    if removed.shape[1]:
        if masked is None:
            raise ValueError(
                f"the weights have {weight.shape[1]} input channels, the model {shared}; unpack another file"
            )
        bias = bias + torch.einsum("oihw,i->o", removed, masked[: removed.shape[1]].to(weight))
    model.load_state_dict({**weights, f"{FIRST_LAYER}.weight": resized, f"{FIRST_LAYER}.bias": bias})
