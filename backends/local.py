"""The backend outside ComfyUI: our own objects on the wires, computed in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..models.specs import ModelSpec, Prediction
from ..pipeline import components
from ..pipeline.components import Loaded, Model
from ..pipeline.sample import sample
from ..pipeline.stable_diffusion import StableDiffusion
from ..samplers import NoiseSchedule
from .folders import input_dir, list_models, model_dirs, resolve_model

__all__ = [
    "identify",
    "input_dir",
    "list_models",
    "load",
    "load_checkpoint",
    "resolve_model",
    "sample",
    "schedule",
    "show",
]


def load(
    name: str | Path, *, prediction: Literal["auto"] | Prediction = "auto", dtype: torch.dtype | None = None
) -> StableDiffusion:
    """Load a checkpoint for Python: a path to a file or a diffusers folder, or a name from `list_models`.

    prediction: "auto", or what overrides the file. dtype: what to compute in, by default float32 on a CPU and the
    file's own on a GPU. ValueError where the file is no checkpoint of the family.
    """
    path = Path(name)
    if not path.exists():
        path = resolve_model("checkpoints", str(name))
    return StableDiffusion(_load(path, prediction, dtype))


def load_checkpoint(
    name: str, prediction: Literal["auto"] | Prediction = "auto", dtype: torch.dtype | None = None
) -> Loaded:
    """Load a checkpoint by a name from `list_models` or an absolute path."""
    return _load(resolve_model("checkpoints", name), prediction, dtype)


def _load(path: Path, prediction: Literal["auto"] | Prediction, dtype: torch.dtype | None) -> Loaded:
    return components.load(path, prediction, dtype, tuple(model_dirs("embeddings")))


def identify(model: Model) -> tuple[str, ModelSpec | None]:
    """Return the file's name and the model's spec."""
    return model.name, model.spec


def schedule(model: Model) -> NoiseSchedule:
    """Return the noise schedule that the model was trained on."""
    return model.schedule


def show(images: Tensor) -> list[dict[str, str]]:
    """Return what the canvas shows of images: nothing without a canvas."""
    return []
