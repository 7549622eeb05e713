"""Stand-ins for the stock nodes that load models."""

from __future__ import annotations

from dataclasses import replace

from ...backends import folders, local
from ...nodes.loaders import SD2CheckpointLoader
from ...pipeline.components import (
    CLIP,
    VAE,
    CLIPVision,
    Loaded,
    Model,
    load,
    load_image_encoder,
    load_text_encoder,
    load_vae,
)
from .model_file import is_there, stamp
from .schema import Inputs, Wire

CLIP_TYPES = [
    "stable_diffusion",
    *("stable_cascade", "sd3", "stable_audio", "mochi", "ltxv", "pixart", "cosmos", "lumina2", "wan", "hidream"),
    *("chroma", "ace", "omnigen2", "qwen_image", "hunyuan_image"),
]


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
        return is_there("vae", vae_name)

    @classmethod
    def IS_CHANGED(cls, vae_name: str) -> list[int]:
        return stamp("vae", vae_name)

    def load_vae(self, vae_name: str) -> tuple[VAE]:
        return (load_vae(local.resolve_model("vae", vae_name)),)


class CLIPVisionLoader:
    RETURN_TYPES = ("CLIP_VISION",)
    FUNCTION = "load_clip"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"clip_name": (local.list_models("clip_vision"),)}}

    @classmethod
    def VALIDATE_INPUTS(cls, clip_name: str | None) -> bool:
        return is_there("clip_vision", clip_name)

    @classmethod
    def IS_CHANGED(cls, clip_name: str) -> list[int]:
        return stamp("clip_vision", clip_name)

    def load_clip(self, clip_name: str) -> tuple[CLIPVision]:
        return (load_image_encoder(local.resolve_model("clip_vision", clip_name)),)


class CLIPLoader:
    RETURN_TYPES = ("CLIP",)
    FUNCTION = "load_clip"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {"clip_name": (local.list_models("text_encoders"),), "type": (CLIP_TYPES,)},
            "optional": {"device": (["default", "cpu"], {"advanced": True})},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, clip_name: str | None, type: str | None) -> bool | str:
        if type not in (None, CLIP_TYPES[0]):
            return f"type is {type!r}, a model of another family; choose stable_diffusion"
        return is_there("text_encoders", clip_name)

    @classmethod
    def IS_CHANGED(cls, clip_name: str, **_: Wire) -> list[int]:
        return stamp("text_encoders", clip_name)

    def load_clip(self, clip_name: str, type: str = CLIP_TYPES[0], device: str = "default") -> tuple[CLIP]:
        embeddings = tuple(folders.model_dirs("embeddings"))
        return (load_text_encoder(local.resolve_model("text_encoders", clip_name), embeddings),)


class UNETLoader:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load_unet"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        dtypes = ["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"]
        return {"required": {"unet_name": (local.list_models("diffusion_models"),), "weight_dtype": (dtypes,)}}

    @classmethod
    def VALIDATE_INPUTS(cls, unet_name: str | None, weight_dtype: str | None) -> bool | str:
        if weight_dtype not in (None, "default"):
            return f"weight_dtype is {weight_dtype!r}, which needs ComfyUI; choose default, or run with --comfyui"
        return is_there("diffusion_models", unet_name)

    @classmethod
    def IS_CHANGED(cls, unet_name: str, **_: Wire) -> list[int]:
        return stamp("diffusion_models", unet_name)

    def load_unet(self, unet_name: str, weight_dtype: str) -> tuple[Model]:
        loaded = load(local.resolve_model("diffusion_models", unet_name))
        return (replace(loaded.model, mean_of_images=False),)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "CheckpointLoaderSimple": CheckpointLoaderSimple,
    "unCLIPCheckpointLoader": UnCLIPCheckpointLoader,
    "VAELoader": VAELoader,
    "CLIPLoader": CLIPLoader,
    "CLIPVisionLoader": CLIPVisionLoader,
    "UNETLoader": UNETLoader,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "CheckpointLoaderSimple": "Load Checkpoint",
    "VAELoader": "Load VAE",
    "CLIPLoader": "Load CLIP",
    "CLIPVisionLoader": "Load CLIP Vision",
    "UNETLoader": "Load Diffusion Model",
}
