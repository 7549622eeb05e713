"""What is wired together wrongly after a sampler, told from the workflow before anything is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import host

Prompt = Mapping[str, Mapping[str, Any]]  # a workflow in API format, by node id


def check_decoders(prompt: Prompt | None, sampler: str | None, model: host.Model) -> None:
    """ValueError where the latent of node `sampler` goes to a checkpoint's vae that enlarges by another factor."""
    name, spec = host.identify(model)
    if prompt is None or spec is None:
        return
    for node in prompt.values():
        decodes, vae = node["inputs"].get("samples") == [sampler, 0], node["inputs"].get("vae")
        if not decodes or not isinstance(vae, list):
            continue
        loaded = prompt.get(vae[0], {"inputs": {}})["inputs"].get("ckpt_name")
        if not isinstance(loaded, str) or loaded.endswith(name):
            continue
        other = host.inspect(host.resolve_model("checkpoints", loaded)).spec
        if other.autoencoder.factor != spec.autoencoder.factor:
            raise ValueError(
                f"the vae of {loaded}, a checkpoint for {other.task}, makes {other.autoencoder.factor} pixels of a "
                f"latent pixel each way, but {name} needs {spec.autoencoder.factor}; connect the vae of {name}"
            )
