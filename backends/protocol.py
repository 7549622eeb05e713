"""What the nodes need from whoever runs them. `backends.local` and `backends.comfyui` are the two implementations."""

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
    """A module with these functions."""

    def list_models(self, kind: str) -> list[str]:
        """Names that `resolve_model` finds, sorted; bundled files and diffusers folders included."""

    def resolve_model(self, kind: str, name: str) -> Path:
        """The file or folder of a model; the user's own take precedence over the bundled ones."""

    def input_dir(self) -> Path:
        """Where images are read from."""

    def load_checkpoint(
        self, name: str, prediction: Literal["auto"] | Prediction = "auto", dtype: torch.dtype | None = None
    ) -> tuple[DiffusionModel, TextEncoder, Autoencoder, ImageEncoder, DepthEstimator, str]:
        """The outputs of SD2 Load Checkpoint; dtype None leaves the choice to the backend."""

    def identify(self, model: DiffusionModel) -> tuple[str, ModelSpec | None]:
        """The name of a model in messages, and its spec; None for a model of another family."""

    def schedule(self, model: DiffusionModel) -> NoiseSchedule:
        """The noise schedule of a model, as the nodes before this one have set it."""

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
        """latent and noise [B, 4, h, w], mask [B, 1, h, w] with 1 where to repaint -> latent, unscaled."""
