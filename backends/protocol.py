"""The interface between nodes and backends; `backends.local` and `backends.comfyui` implement it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ..models.specs import ModelSpec, Prediction
from ..pipeline.types import Autoencoder, Conditioning, DepthEstimator, ImageEncoder, Sampling, TextEncoder
from ..samplers import NoiseSchedule

DiffusionModel = Any  # on a MODEL wire: pipeline.components.Model, inside ComfyUI its ModelPatcher


class LoadedObjects(NamedTuple):
    """The outputs of SD2 Load Checkpoint, in their order."""

    model: DiffusionModel
    clip: TextEncoder
    vae: Autoencoder
    clip_vision: ImageEncoder
    depth_model: DepthEstimator
    report: str


class Backend(Protocol):
    """The functions of a backend module."""

    def list_models(self, kind: str) -> list[str]:
        """List the names that `resolve_model` finds, sorted, including bundled files and diffusers folders."""

    def resolve_model(self, kind: str, name: str) -> Path:
        """Find the file or folder of a model; the user's own take precedence over the bundled ones."""

    def input_dir(self) -> Path:
        """Return the folder of input images."""

    def load_checkpoint(
        self, name: str, prediction: Literal["auto"] | Prediction = "auto", dtype: torch.dtype | None = None
    ) -> tuple[DiffusionModel, TextEncoder, Autoencoder, ImageEncoder, DepthEstimator, str]:
        """Return the outputs of SD2 Load Checkpoint; dtype None leaves the choice to the backend."""

    def identify(self, model: DiffusionModel) -> tuple[str, ModelSpec | None]:
        """Return a model's name for messages and its spec, which is None for a model of another family."""

    def schedule(self, model: DiffusionModel) -> NoiseSchedule:
        """Return the noise schedule of a model, as set by upstream nodes."""

    def sample(
        self,
        model: DiffusionModel,
        sampling: Sampling,
        positive: Conditioning,
        negative: Conditioning,
        *,
        latent: Tensor,
        noise: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        """Sample: latent and noise [B, 4, h, w], mask [B, 1, h, w] with 1 where to repaint -> latent, unscaled."""

    def show(self, images: Tensor) -> list[dict[str, str]]:
        """Prepare images [B, H, W, 3] for the canvas to show on a node; an empty list without a canvas."""
