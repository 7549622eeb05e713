"""Check the nodes after a sampler for a wrong vae before sampling starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..models import detection
from . import DiffusionModel, backend

Prompt = Mapping[str, Mapping[str, Any]]  # a workflow in API format, by node id


def check_decoders(prompt: Prompt | None, sampler: str | None, model: DiffusionModel) -> None:
    """Raise ValueError if node `sampler`'s latent goes to a vae with a downscaling factor other than the model's."""
    name, spec = backend.identify(model)
    if prompt is None or spec is None:
        return
    for node in prompt.values():
        decodes, vae = node["inputs"].get("samples") == [sampler, 0], node["inputs"].get("vae")
        if not decodes or not isinstance(vae, list):
            continue
        loaded = prompt.get(vae[0], {"inputs": {}})["inputs"].get("ckpt_name")
        if not isinstance(loaded, str) or loaded.endswith(name):
            continue
        other = detection.inspect(backend.resolve_model("checkpoints", loaded)).spec
        if other.autoencoder.factor != spec.autoencoder.factor:
            raise ValueError(
                f"the vae of {loaded}, a checkpoint for {other.task}, decodes at {other.autoencoder.factor}x, but the "
                f"latents of {name} need {spec.autoencoder.factor}x; connect the vae of {name}"
            )
