"""Stand-ins for the stock nodes that load models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...backends import local
from ...nodes.loaders import SD2CheckpointLoader
from ...pipeline.components import VAE, Loaded, load_vae
from .schema import Inputs, Wire


class _Checkpoint:
    """Base of the checkpoint loaders: the file is checked, and loaded again when it changes."""

    FUNCTION = "load_checkpoint"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"ckpt_name": (local.list_models("checkpoints"),)}}

    @classmethod
    def VALIDATE_INPUTS(cls, ckpt_name: str | None) -> bool | str:
        return SD2CheckpointLoader.VALIDATE_INPUTS(ckpt_name)

    @classmethod
    def IS_CHANGED(cls, ckpt_name: str) -> str:
        return SD2CheckpointLoader.IS_CHANGED(ckpt_name, "auto", "auto")


class CheckpointLoaderSimple(_Checkpoint):
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")

    def load_checkpoint(self, ckpt_name: str) -> tuple[Wire, ...]:
        return _load(ckpt_name)[:3]


class UnCLIPCheckpointLoader(_Checkpoint):
    RETURN_TYPES = ("MODEL", "CLIP", "VAE", "CLIP_VISION")

    def load_checkpoint(self, ckpt_name: str) -> tuple[Wire, ...]:
        return _load(ckpt_name)[:4]


def _load(name: str) -> Loaded:
    """Load a checkpoint whose model adds several images up, as ComfyUI's own does."""
    loaded = local.load_checkpoint(name)
    return loaded._replace(model=replace(loaded.model, mean_of_images=False))


class VAELoader:
    RETURN_TYPES = ("VAE",)
    FUNCTION = "load_vae"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"vae_name": (local.list_models("vae"),)}}

    @classmethod
    def VALIDATE_INPUTS(cls, vae_name: str | None) -> bool:
        if vae_name is not None:
            _vae_file(vae_name)
        return True

    @classmethod
    def IS_CHANGED(cls, vae_name: str) -> list[int]:
        stat = _vae_file(vae_name).stat()
        return [stat.st_mtime_ns, stat.st_size]

    def load_vae(self, vae_name: str) -> tuple[VAE]:
        return (load_vae(_vae_file(vae_name)),)


def _vae_file(name: str) -> Path:
    return local.resolve_model("vae", name)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "CheckpointLoaderSimple": CheckpointLoaderSimple,
    "unCLIPCheckpointLoader": UnCLIPCheckpointLoader,
    "VAELoader": VAELoader,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "CheckpointLoaderSimple": "Load Checkpoint",
    "VAELoader": "Load VAE",
}
