"""Stand-ins for the stock nodes that load LoRAs."""

from __future__ import annotations

from ...backends import folders
from ...pipeline.apply_lora import apply_lora
from .model_file import is_there, stamp
from .schema import Inputs, Wire

STRENGTH = ("FLOAT", {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01})


class _LoraFile:
    """Base of both loaders: check the file, and run again when it changes."""

    @classmethod
    def VALIDATE_INPUTS(cls, lora_name: str | None) -> bool:
        return is_there("loras", lora_name)

    @classmethod
    def IS_CHANGED(cls, lora_name: str, **_: Wire) -> list[int]:
        return stamp("loras", lora_name)


class LoraLoader(_LoraFile):
    RETURN_TYPES = ("MODEL", "CLIP")
    FUNCTION = "load_lora"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("MODEL",),
                "clip": ("CLIP",),
                "lora_name": (folders.list_models("loras"),),
                "strength_model": STRENGTH,
                "strength_clip": STRENGTH,
            }
        }

    def load_lora(
        self, model: Wire, clip: Wire, lora_name: str, strength_model: float, strength_clip: float
    ) -> tuple[Wire, Wire]:
        if strength_model == 0 and strength_clip == 0:
            return model, clip
        return apply_lora(folders.resolve_model("loras", lora_name), model, clip, strength_model, strength_clip)


class LoraLoaderModelOnly(_LoraFile):
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load_lora_model_only"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("MODEL",),
                "lora_name": (folders.list_models("loras"),),
                "strength_model": STRENGTH,
            }
        }

    def load_lora_model_only(self, model: Wire, lora_name: str, strength_model: float) -> tuple[Wire]:
        if strength_model == 0:
            return (model,)
        return apply_lora(folders.resolve_model("loras", lora_name), model, None, strength_model, 0)[:1]


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "LoraLoader": LoraLoader,
    "LoraLoaderModelOnly": LoraLoaderModelOnly,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "LoraLoader": "Load LoRA",
    "LoraLoaderModelOnly": "LoraLoaderModelOnly",
}
