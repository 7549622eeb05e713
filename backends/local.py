"""The backend outside ComfyUI: our own objects on the wires, computed in this process."""

from __future__ import annotations

from typing import Literal

import torch

from ..models.specs import ModelSpec, Prediction
from ..pipeline import components
from ..pipeline.components import Loaded, Model
from ..pipeline.sample import sample
from ..samplers import NoiseSchedule
from .folders import input_dir, list_models, resolve_model

__all__ = ["identify", "input_dir", "list_models", "load_checkpoint", "resolve_model", "sample", "schedule"]


def load_checkpoint(
    name: str, prediction: Literal["auto"] | Prediction = "auto", dtype: torch.dtype | None = None
) -> Loaded:
    """Load a checkpoint by a name from `list_models` or an absolute path."""
    return components.load(resolve_model("checkpoints", name), prediction, dtype)


def identify(model: Model) -> tuple[str, ModelSpec | None]:
    """Return the file's name and the model's spec."""
    return model.name, model.spec


def schedule(model: Model) -> NoiseSchedule:
    """Return the noise schedule that the model was trained on."""
    return model.schedule
