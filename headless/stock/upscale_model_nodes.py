"""Stand-ins for the stock nodes that make images larger with a model trained for it."""

from __future__ import annotations

from torch import Tensor

from ...backends import folders
from ...pipeline.upscale_model import UpscaleModel, load_upscale_model
from .model_file import is_there, stamp
from .schema import Inputs

FOLDER = "upscale_models"


class UpscaleModelLoader:
    RETURN_TYPES = ("UPSCALE_MODEL",)
    FUNCTION = "load_model"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"model_name": (folders.list_models(FOLDER),)}}

    @classmethod
    def VALIDATE_INPUTS(cls, model_name: str | None) -> bool:
        return is_there(FOLDER, model_name)

    @classmethod
    def IS_CHANGED(cls, model_name: str) -> list[int]:
        return stamp(FOLDER, model_name)

    def load_model(self, model_name: str) -> tuple[UpscaleModel]:
        return (load_upscale_model(folders.resolve_model(FOLDER, model_name)),)


class ImageUpscaleWithModel:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"upscale_model": ("UPSCALE_MODEL",), "image": ("IMAGE",)}}

    def upscale(self, upscale_model: UpscaleModel, image: Tensor) -> tuple[Tensor]:
        return (upscale_model.upscale(image),)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "UpscaleModelLoader": UpscaleModelLoader,
    "ImageUpscaleWithModel": ImageUpscaleWithModel,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "UpscaleModelLoader": "Load Upscale Model",
    "ImageUpscaleWithModel": "Upscale Image (using Model)",
}
