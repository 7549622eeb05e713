"""Stand-ins for the stock nodes that load ControlNets and apply them."""

from __future__ import annotations

from torch import Tensor

from ...backends import folders
from ...pipeline.control import ControlModel, apply_control, load_control_model
from ...pipeline.types import Conditioning
from .model_file import is_there, stamp
from .schema import Inputs, Wire, number

FOLDER = "controlnet"
STRENGTH = number(1.0, high=10.0)


class _ControlNetFile:
    """Base of both loaders: check the file, and run again when it changes."""

    RETURN_TYPES = ("CONTROL_NET",)
    FUNCTION = "load_controlnet"

    @classmethod
    def VALIDATE_INPUTS(cls, control_net_name: str | None) -> bool:
        return is_there(FOLDER, control_net_name)

    @classmethod
    def IS_CHANGED(cls, control_net_name: str, **_: Wire) -> list[int]:
        return stamp(FOLDER, control_net_name)


class ControlNetLoader(_ControlNetFile):
    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"control_net_name": (folders.list_models(FOLDER),)}}

    def load_controlnet(self, control_net_name: str) -> tuple[ControlModel]:
        return (load_control_model(folders.resolve_model(FOLDER, control_net_name)),)


class DiffControlNetLoader(_ControlNetFile):
    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"model": ("MODEL",), "control_net_name": (folders.list_models(FOLDER),)}}

    def load_controlnet(self, model: Wire, control_net_name: str) -> tuple[ControlModel]:
        return (load_control_model(folders.resolve_model(FOLDER, control_net_name), model),)


class ControlNetApply:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "apply_controlnet"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "control_net": ("CONTROL_NET",),
                "image": ("IMAGE",),
                "strength": STRENGTH,
            }
        }

    def apply_controlnet(
        self, conditioning: Conditioning, control_net: ControlModel, image: Tensor, strength: float
    ) -> tuple[Conditioning, ...]:
        return apply_control(control_net, image, conditioning, strength=strength, to_negative=True)


class ControlNetApplyAdvanced:
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    FUNCTION = "apply_controlnet"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "control_net": ("CONTROL_NET",),
                "image": ("IMAGE",),
                "strength": STRENGTH,
                "start_percent": number(0.0, step=0.001),
                "end_percent": number(1.0, step=0.001),
            },
            "optional": {"vae": ("VAE",)},
        }

    def apply_controlnet(
        self,
        positive: Conditioning,
        negative: Conditioning,
        control_net: ControlModel,
        image: Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
        vae: Wire = None,
    ) -> tuple[Conditioning, ...]:
        """Apply to both sides; a vae is for ControlNets of other families, which read latents."""
        return apply_control(
            control_net, image, positive, negative, strength=strength, start=start_percent, end=end_percent
        )


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "ControlNetLoader": ControlNetLoader,
    "DiffControlNetLoader": DiffControlNetLoader,
    "ControlNetApply": ControlNetApply,
    "ControlNetApplyAdvanced": ControlNetApplyAdvanced,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "ControlNetLoader": "Load ControlNet Model",
    "DiffControlNetLoader": "Load ControlNet Model (diff)",
    "ControlNetApply": "Apply ControlNet (OLD)",
    "ControlNetApplyAdvanced": "Apply ControlNet",
}
