"""Load a checkpoint as ComfyUI's objects.

ComfyUI makes independent copies of a model (for another GPU, or without streaming) by calling `cached_patcher_init`,
so loading depends only on the file and the loader's widgets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import comfy.model_management
import comfy.ops
import torch

from ...models import checkpoint
from ...models.detection import Inspection, detect
from ...models.specs import Prediction
from ...models.unet import UNet
from ...pipeline.components import NoAutoencoder, NoDepthModel, NoImageEncoder, NoTextEncoder
from ..protocol import LoadedObjects
from .files import resolve_model
from .model import DTYPES, Patcher, build_model, retype
from .text import build_clip
from .vae import build_vae
from .vision import DepthModel, build_image_encoder


def load_checkpoint(
    name: str, prediction: Literal["auto"] | Prediction = "auto", dtype: torch.dtype | None = None
) -> LoadedObjects:
    """Load a checkpoint by a name from `list_models`; dtype None leaves the choice to ComfyUI."""
    return _load(resolve_model("checkpoints", name), prediction, dtype)


def _load(
    path: Path, prediction: Literal["auto"] | Prediction, dtype: torch.dtype | None, disable_dynamic: bool = False
) -> LoadedObjects:
    detected = detect(path, prediction=prediction)
    weights, compute = _unet_dtypes(detected.inspection, dtype)
    ops = comfy.ops.pick_operations(weights, compute)
    file = checkpoint.build(detected, prepare=lambda module: retype(module, ops if isinstance(module, UNet) else None))
    loaded = LoadedObjects(
        model=build_model(file, weights, compute, disable_dynamic),
        clip=build_clip(file.text, dtype, disable_dynamic) if file.text else NoTextEncoder(path.name),
        vae=(
            build_vae(file.autoencoder, file.spec.autoencoder.factor, dtype)
            if file.autoencoder
            else NoAutoencoder(path.name)
        ),
        clip_vision=NoImageEncoder(path.name) if file.image is None else build_image_encoder(file.image, dtype),
        depth_model=NoDepthModel(path.name) if file.depth is None else DepthModel(file.depth),
        report=file.report,
    )
    for index, patcher in enumerate(_patchers_of(loaded)):
        patcher.cached_patcher_init = (_patchers, (path, prediction, dtype), index)
    return loaded


def _patchers(
    path: Path, prediction: Literal["auto"] | Prediction, dtype: torch.dtype | None, disable_dynamic: bool = False
) -> list[Patcher]:
    return _patchers_of(_load(path, prediction, dtype, disable_dynamic))


def _patchers_of(loaded: LoadedObjects) -> list[Patcher]:
    model, *others = loaded[:4]
    return [model, *(other.patcher for other in others if hasattr(other, "patcher"))]


def _unet_dtypes(inspection: Inspection, wanted: torch.dtype | None) -> tuple[torch.dtype, torch.dtype | None]:
    """Return the UNet's storage dtype and its compute dtype if different, as ComfyUI chooses for this machine."""
    management = comfy.model_management
    stored = getattr(torch, inspection.dtypes["unet"])
    size = inspection.sizes["unet"]
    weights = wanted or management.unet_dtype(model_params=size, supported_dtypes=DTYPES, weight_dtype=stored)
    return weights, management.unet_manual_cast(weights, management.get_torch_device(), DTYPES)
