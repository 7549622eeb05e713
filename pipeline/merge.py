"""Merge models and text encoders: weighted sums of their weights, which neither's own weights feel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from ..models.changes import Change, Mix
from .components import CLIP, Model, NoTextEncoder

Shares = Callable[[str], tuple[float, float]]  # of the first and of the second model, by the key of a weight
STEM = "input_blocks.0.0.weight"  # takes the extra channels of inpainting and depth models
UNREAD = "model.logit_scale"  # of a text tower


def merge_models(model: Model, other: Model, shares: Shares) -> Model:
    """Return `model` with the weights a * W + b * W_other, (a, b) being the shares of a weight in the UNet.

    Weights that one of the two lacks stay. So does the first layer where one takes other inputs, such as a mask; a
    warning says so. ValueError where the models have other sizes.
    """
    names = f"{other.name} cannot be merged into {model.name}"
    keys = _common(model.unet, other.unet, names)
    if STEM not in keys:
        logging.getLogger("sd2_family").warning(
            f"the first layer of {other.name} is left out of the merge, because {model.name} takes other inputs"
        )
    return replace(model, changes=(*model.changes, _mix(other.unet, other.changes, keys, shares)))


def merge_text_encoders(clip: CLIP | NoTextEncoder, other: CLIP | NoTextEncoder, shares: Shares) -> CLIP:
    """Return `clip` with the weights a * W + b * W_other; ValueError where the two have other sizes."""
    if isinstance(clip, NoTextEncoder):
        clip.tokenize("")
    if isinstance(other, NoTextEncoder):
        other.tokenize("")
    keys = _common(clip.tower, other.tower, "the text encoders cannot be merged") - {UNREAD}
    return replace(clip, changes=(*clip.changes, _mix(other.tower, other.changes, keys, shares)))


def _mix(network: nn.Module, changes: tuple[Change, ...], keys: set[str], shares: Shares) -> Mix:
    return Mix(network, changes, {key: shares(key) for key in keys})


def _common(network: nn.Module, other: nn.Module, refusal: str) -> set[str]:
    """Return the keys of the weights that both have in one shape."""
    own, theirs = network.state_dict(), other.state_dict()
    both = own.keys() & theirs.keys()
    odd = sorted(key for key in both if own[key].shape != theirs[key].shape)
    if set(odd) - {STEM}:
        key = next(key for key in odd if key != STEM)
        raise ValueError(
            f"{refusal}: {key} is {list(theirs[key].shape)} in the second and {list(own[key].shape)} in the first; "
            "choose two of one family"
        )
    return both - set(odd)
