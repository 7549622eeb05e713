"""Read a weights file: safetensors, or a pickle restricted to an allowlist, told apart by content, not by suffix.

Tensors are memory-mapped where the format allows it.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

INDEX = "model_index.json"  # identifies a folder in diffusers format
REST = "sd2_family.rest"  # metadata: the file in the same folder that has the parts this one lacks


class _ModelCheckpoint:
    """Stand-in for the PyTorch Lightning class that training checkpoints reference."""


_SCALAR = np.float64(0).__reduce__()[0]  # numpy's scalar constructor, whose module depends on the version
_ALLOWED: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(name)) for name in ("bool", "int32", "int64", "float16", "float32", "float64")},
    (_ModelCheckpoint, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
]
# where pickles keep their weights beside what else training saves: Lightning's key, then those of upscale models, the
# moving average first
_WEIGHTS = ("state_dict", "model_state_dict", "params_ema", "params-ema", "params", "model", "net")


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a file by key, and its metadata (safetensors only)."""

    name: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    notes: tuple[str, ...] = ()  # sentences about what was chosen while reading


def read(path: str | Path) -> WeightsFile:
    """Read a file without executing code in it; its tensors stay on disk until used.

    Parts that a file lacks (by the first word of their keys) may come from another file in its folder: see `REST`.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path.name} does not exist; choose another .safetensors or .ckpt file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name} is empty; download it again")
    tensors, metadata = _content(path)
    if not tensors:
        raise ValueError(f"{path.name} contains no tensors; choose a checkpoint")
    if REST in metadata:
        tensors = _completed(tensors, path, metadata[REST])
    return WeightsFile(path.name, tensors, metadata)


def _content(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    return _read_safetensors(path) if _is_safetensors(path) else (_read_pickle(path), {})


def _is_safetensors(path: Path) -> bool:
    """Whether a file starts as safetensors: the length of a JSON object in 8 bytes, then the object.

    A file that is too short for it is called by its suffix.
    """
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" if len(start) == 9 else path.suffix.lower() in (".safetensors", ".sft")


def _load(path: Path) -> object:
    if _can_map(path):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    with path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def stays_on_disk(path: Path) -> bool:
    """Whether `read` maps the tensors of a file; else it reads them all."""
    return _is_safetensors(path) or _can_map(path)


def _can_map(path: Path) -> bool:
    """Whether the tensors of a pickle can stay on disk: a zip archive none of whose entries is compressed.

    torch takes a path that ends in .safetensors for one, whatever it holds.
    """
    if path.suffix.lower() == ".safetensors" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path.name} is incomplete or not a safetensors file ({error}); download it again"
        ) from error


def _completed(tensors: dict[str, Tensor], path: Path, name: str) -> dict[str, Tensor]:
    other = path.parent / Path(name).name
    if not other.is_file():
        raise ValueError(f"{path.name} needs {name} for some of its parts; put it in the same folder")
    own = {part(key) for key in tensors}
    rest, _ = _content(other)
    return tensors | {key: tensor for key, tensor in rest.items() if part(key) not in own}


def part(key: str) -> str:
    """Return the part of a checkpoint that a key belongs to: model, first_stage_model, cond_stage_model, ..."""
    return key.partition(".")[0]


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            content = _load(path)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise ValueError(
                f"{path.name} would run {refused[1]} while loading, which weights never need; use a .safetensors file"
            ) from error
        raise ValueError(f"{path.name} cannot be read safely; use a .safetensors file") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(f"{path.name} is incomplete or not a checkpoint; download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} contains a {type(content).__name__}, not named weights; choose a checkpoint")
    state = next((content[key] for key in _WEIGHTS if isinstance(content.get(key), dict)), content)
    tensors = {key: tensor for key, tensor in state.items() if isinstance(key, str) and isinstance(tensor, Tensor)}
    for key, tensor in tensors.items():
        if odd := _oddity(tensor):
            raise ValueError(f"{path.name} has a {odd} tensor, {key}, and weights are plain; choose another file")
    return tensors


def _oddity(tensor: Tensor) -> str:
    """What makes a tensor of a pickle one that no weights are, or an empty string."""
    kinds = {
        "nested": tensor.is_nested,
        "meta": tensor.is_meta,
        "quantized": tensor.is_quantized,
        "sparse": tensor.layout is not torch.strided,
    }
    return next((kind for kind, found in kinds.items() if found), "")


def majority_dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    """Return the dtype of most parameters, or float16 in place of 8-bit floats, which cannot compute."""
    counts: Counter[torch.dtype] = Counter()
    for tensor in state.values():
        counts[tensor.dtype] += tensor.numel()
    most = counts.most_common(1)[0][0]
    return torch.float16 if most.is_floating_point and most.itemsize == 1 else most
