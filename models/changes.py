"""A copy of a network with changes of its weights; it shares every weight that does not change.

A change is a LoRA's layer (`lora`) or the mixing with another network's weights.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
Edit = Callable[[Tensor], Tensor]  # a float32 weight, where it is computed -> the changed weight; it may write to it


class Change(Protocol):
    """What changes weights of a network."""

    def edits(self, dtype: torch.dtype) -> Iterable[tuple[str, Edit]]:
        """Yield the keys of weights and what becomes of them; dtype: what the network computes in."""


@dataclass(frozen=True, eq=False)
class Mix:
    """W becomes keep * W + add * W_other, W_other having the changes of its own network."""

    network: nn.Module
    changes: tuple[Change, ...]
    shares: Mapping[str, tuple[float, float]]  # keep and add by key

    def edits(self, dtype: torch.dtype) -> Iterable[tuple[str, Edit]]:
        state, own = self.network.state_dict(), _by_key(self.changes, dtype)

        def mixing(key: str, keep: float, add: float) -> Edit:
            return lambda weight: keep * weight + add * _edited(state[key], own.get(key, ()), dtype, weight.device)

        for key, (keep, add) in self.shares.items():
            yield key, mixing(key, keep, add)


@torch.no_grad()
def changed(network: Network, changes: Sequence[Change], dtype: torch.dtype, device: torch.device) -> Network:
    """Return a copy of a network with the changes in order.

    dtype, device: what the network computes in. The changed weights are computed in float32 from weights in `dtype`,
    so that they do not depend on whether the network has been converted to it yet.
    """
    state = network.state_dict()
    result = copy.deepcopy(network, {id(parameter): parameter for parameter in network.parameters()})
    for key, edits in _by_key(changes, dtype).items():
        weight = _edited(state[key], edits, dtype, device)
        module, _, name = key.rpartition(".")
        result.get_submodule(module).register_parameter(name, nn.Parameter(weight.to(dtype), requires_grad=False))
    return result


def _by_key(changes: Iterable[Change], dtype: torch.dtype) -> dict[str, list[Edit]]:
    edits: defaultdict[str, list[Edit]] = defaultdict(list)
    for change in changes:
        for key, edit in change.edits(dtype):
            edits[key].append(edit)
    return dict(edits)


def _edited(weight: Tensor, edits: Iterable[Edit], dtype: torch.dtype, device: torch.device) -> Tensor:
    weight = weight.to(device, dtype).to(torch.float32, copy=True)
    for edit in edits:
        weight = edit(weight)
    return weight
