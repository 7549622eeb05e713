"""Stand-ins for the stock nodes that encode text and images."""

from __future__ import annotations

from torch import Tensor

from .schema import Inputs, Wire


class CLIPTextEncode:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"text": ("STRING", {"multiline": True, "dynamicPrompts": True}), "clip": ("CLIP",)}}

    def encode(self, clip: Wire, text: str) -> tuple[Wire]:
        return (clip.encode_from_tokens_scheduled(clip.tokenize(text)),)


class CLIPVisionEncode:
    RETURN_TYPES = ("CLIP_VISION_OUTPUT",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {"clip_vision": ("CLIP_VISION",), "image": ("IMAGE",), "crop": (["center", "none"],)},
        }

    def encode(self, clip_vision: Wire, image: Tensor, crop: str) -> tuple[Wire]:
        return (clip_vision.encode_image(image, crop=crop == "center"),)


class CLIPSetLastLayer:
    RETURN_TYPES = ("CLIP",)
    FUNCTION = "set_last_layer"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        stop = {"default": -1, "min": -24, "max": -1, "step": 1}
        return {"required": {"clip": ("CLIP",), "stop_at_clip_layer": ("INT", stop)}}

    def set_last_layer(self, clip: Wire, stop_at_clip_layer: int) -> tuple[Wire]:
        return (clip.with_stop(stop_at_clip_layer),)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "CLIPTextEncode": CLIPTextEncode,
    "CLIPSetLastLayer": CLIPSetLastLayer,
    "CLIPVisionEncode": CLIPVisionEncode,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "CLIPTextEncode": "CLIP Text Encode (Prompt)",
    "CLIPSetLastLayer": "CLIP Set Last Layer",
    "CLIPVisionEncode": "CLIP Vision Encode",
}
