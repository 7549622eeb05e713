"""Read a LoRA file of any trainer's naming and find its layers in a network.

The names and the arithmetic are in `lora_names` and `lora_layer`; `changes` makes a copy of the network with them.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from . import lora_layer, lora_names
from .changes import Edit
from .clip_text import TextTower
from .lora_layer import BIAS_ROLES, WEIGHT_ROLES, Factors
from .lora_names import Place
from .unet import UNet
from .weights_file import read as read_weights

_KEY = re.compile(
    r"(?P<layer>.+?)("
    r"[._]lora(_linear_layer)?[._](?P<factor>up|down|mid|A|B)(\.default)?(\.weight)?"
    r"|\.(?P<role>alpha|dora_scale|diff|diff_b|w_norm|b_norm|hada_(w[12]_[ab]|t[12])|lokr_(w[12](_[ab])?|t2)))"
)
_FACTORS = {"A": "down", "B": "up"}
_STEM = "input_blocks.0.0.weight"  # takes the extra channels of inpainting and depth models
_CONTEXTS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}  # by width


@dataclass(frozen=True)
class Lora:
    """The layers of a file, and the keys that belong to none."""

    name: str
    layers: dict[str, dict[str, Tensor]]  # factors by role, by the layer's name in the file
    others: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """What a layer of a file does to one weight of a network, at a strength."""

    place: Place
    factors: Factors
    strength: float

    def edits(self, dtype: torch.dtype) -> Iterable[tuple[str, Edit]]:
        """Yield the change of the weight and that of its bias, those that the layer has."""
        if WEIGHT_ROLES & set(self.factors):
            yield self.place.key, partial(self._edited, lora_layer.changed)
        if BIAS_ROLES & set(self.factors):
            yield self.place.bias, partial(self._edited, lora_layer.changed_bias)

    def _edited(self, apply: Callable[[Tensor, Factors, float], Tensor], weight: Tensor) -> Tensor:
        rows, factors = self.place.rows, {role: tensor.to(weight.device) for role, tensor in self.factors.items()}
        weight[rows] = apply(weight[rows], factors, self.strength)
        return weight


@dataclass(frozen=True)
class Changes:
    """What a file does to the two networks of a model."""

    unet: tuple[Change, ...] = ()
    text: tuple[Change, ...] = ()


def read(path: str | Path) -> Lora:
    """Read a file; ValueError if it has no layer of a LoRA."""
    file = read_weights(path)
    layers: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    others = []
    for key, tensor in file.tensors.items():
        if match := _KEY.fullmatch(key):
            layers[match["layer"]][match["role"] or _FACTORS.get(match["factor"], match["factor"])] = tensor
        else:
            others.append(key)
    known = {layer: factors for layer, factors in layers.items() if (WEIGHT_ROLES | BIAS_ROLES) & set(factors)}
    if not known:
        raise ValueError(
            f"{file.name} is not a LoRA that can be read (its first key is {next(iter(file.tensors))}); choose a "
            "LoRA, LoCon, LoHa or LoKr file"
        )
    return Lora(file.name, known, (*others, *(layer for layer in layers if layer not in known)))


@dataclass
class _Part:
    """A network that a file may change, and what was found for it."""

    state: Mapping[str, Tensor]
    places: Mapping[str, Place]
    strength: float
    changes: list[Change] = field(default_factory=list)

    @property
    def effective(self) -> tuple[Change, ...]:
        return tuple(self.changes) if self.strength else ()


def fit(
    lora: Lora, model: str, unet: UNet, tower: TextTower | None, *, unet_strength: float, text_strength: float = 0.0
) -> Changes:
    """Find the layers of a file in a model's networks; a warning names those that are in neither.

    model: the checkpoint's name, for messages. tower: None leaves the file's text encoder layers alone. Raises
    ValueError where the file is for another model: none of its layers is in the networks, or one has other sizes.
    """
    parts = [_Part(unet.state_dict(), lora_names.unet_places(unet), unet_strength)]
    if tower is not None:
        parts.append(_Part(tower.state_dict(), lora_names.text_places(tower), text_strength))
    absent = list(lora.others)
    misfits: dict[str, str] = {}  # by the key of the weight
    for layer, factors in lora.layers.items():
        name = lora_names.flat(layer)
        part = next((part for part in parts if name in part.places), None)
        if part is not None:
            place = part.places[name]
            if problem := _misfit(part.state, place, factors):
                misfits[place.key] = f"{layer} {problem}"
            else:
                part.changes.append(Change(place, factors, part.strength))
        elif not (lora_names.is_unread(layer) or (tower is None and lora_names.of_text_encoder(layer))):
            absent.append(layer)
    if set(misfits) - {_STEM} or not any(part.changes for part in parts):
        raise ValueError(_refusal(lora, model, unet, absent, misfits))
    if left_out := [*absent, *misfits.values()]:
        more = ", ...)" if len(left_out) > 1 else ")"
        logging.getLogger("sd2_family").warning(
            f"{lora.name} has {len(left_out)} parts that {model} cannot take, which are left out ({left_out[0]}{more}"
        )
    return Changes(*(part.effective for part in parts))


def _misfit(state: Mapping[str, Tensor], place: Place, factors: Factors) -> str:
    """Return the end of a sentence where a layer does not fit its weight, else an empty string."""
    shapes = {role: tensor.to("meta") for role, tensor in factors.items()}  # the same formulas on shapes alone
    try:
        if WEIGHT_ROLES & set(factors):
            expected, change = state[place.key][place.rows], lora_layer.difference(shapes)
            if change.numel() != expected.numel() or len(change) != len(expected):
                return f"has shape {list(change.shape)} instead of {list(expected.shape)}"
            lora_layer.changed(expected.to("meta", torch.float32), shapes, 1.0)
        if BIAS_ROLES & set(factors):
            bias, change = state[place.bias][place.rows], lora_layer.bias_difference(shapes)
            if change.numel() != bias.numel():
                return f"has a bias of {change.numel()} instead of {bias.numel()}"
    except KeyError as error:
        return f"has no {error.args[0]}"
    except RuntimeError:
        return "has factors that do not fit each other"
    return ""


def _refusal(lora: Lora, model: str, unet: UNet, absent: list[str], misfits: dict[str, str]) -> str:
    """Return the sentence about a file that is for another model."""
    made_for, wanted = _made_for(lora), _CONTEXTS.get(unet.spec.context_dim, "this model")
    if misfits:
        reason = f"its layer {next(iter(misfits.values()))}"
    elif absent:
        reason = f"which has no layer {absent[0]}"
    else:
        reason = "it changes the text encoder alone"
    other = f"is for {made_for} and " if made_for and made_for != wanted else ""
    return f"{lora.name} {other}does not fit {model} ({reason}); choose a LoRA for {wanted}"


def _made_for(lora: Lora) -> str:
    """Return the model that a file was trained on if its names or its attention to the prompt tell, else ""."""
    if any(map(lora_names.is_sdxl, lora.layers)):
        return _CONTEXTS[2048]
    widths = (
        factors["down"].flatten(1).shape[1]
        for layer, factors in lora.layers.items()
        if lora_names.flat(layer).endswith("_attn2_to_k") and "down" in factors
    )
    return _CONTEXTS.get(next(widths, 0), "")
