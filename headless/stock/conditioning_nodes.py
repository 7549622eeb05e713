"""Stand-ins for the stock nodes that combine prompts and place them in the image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...pipeline.types import Conditioning, with_options
from .schema import Inputs, number, pixels

STRENGTH = number(1.0, high=10.0)


class ConditioningCombine:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "combine"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"conditioning_1": ("CONDITIONING",), "conditioning_2": ("CONDITIONING",)}}

    def combine(self, conditioning_1: Conditioning, conditioning_2: Conditioning) -> tuple[Conditioning]:
        return (conditioning_1 + conditioning_2,)


class ConditioningAverage:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "addWeighted"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "conditioning_to": ("CONDITIONING",),
                "conditioning_from": ("CONDITIONING",),
                "conditioning_to_strength": number(1.0),
            }
        }

    def addWeighted(
        self, conditioning_to: Conditioning, conditioning_from: Conditioning, conditioning_to_strength: float
    ) -> tuple[Conditioning]:
        """Mix every entry with the first of conditioning_from, cut or filled with zeros to the entry's length."""
        other: Tensor = conditioning_from[0][0]

        def mixed(context: Tensor) -> Tensor:
            length = context.shape[1]
            fitted = F.pad(other, (0, 0, 0, max(length - other.shape[1], 0)))[:, :length]
            return context * conditioning_to_strength + fitted * (1 - conditioning_to_strength)

        return ([[mixed(context), options] for context, options in conditioning_to],)


class ConditioningConcat:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "concat"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"conditioning_to": ("CONDITIONING",), "conditioning_from": ("CONDITIONING",)}}

    def concat(self, conditioning_to: Conditioning, conditioning_from: Conditioning) -> tuple[Conditioning]:
        """Append the first entry of conditioning_from to every entry."""
        other = conditioning_from[0][0]
        return ([[torch.cat([context, other], dim=1), options] for context, options in conditioning_to],)


class ConditioningSetArea:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "append"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        sizes = {name: pixels(64, low=64, step=8) for name in ("width", "height")}
        corner = {name: pixels(0, step=8) for name in ("x", "y")}
        return {"required": {"conditioning": ("CONDITIONING",), **sizes, **corner, "strength": STRENGTH}}

    def append(
        self, conditioning: Conditioning, width: int, height: int, x: int, y: int, strength: float
    ) -> tuple[Conditioning]:
        area = (height // 8, width // 8, y // 8, x // 8)
        return (with_options(conditioning, {"area": area, "strength": strength, "set_area_to_bounds": False}),)


class ConditioningSetAreaPercentage:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "append"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        sizes = {name: number(1.0) for name in ("width", "height")}
        corner = {name: number(0.0) for name in ("x", "y")}
        return {"required": {"conditioning": ("CONDITIONING",), **sizes, **corner, "strength": STRENGTH}}

    def append(
        self, conditioning: Conditioning, width: float, height: float, x: float, y: float, strength: float
    ) -> tuple[Conditioning]:
        area = ("percentage", height, width, y, x)
        return (with_options(conditioning, {"area": area, "strength": strength, "set_area_to_bounds": False}),)


class ConditioningSetAreaStrength:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "append"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"conditioning": ("CONDITIONING",), "strength": STRENGTH}}

    def append(self, conditioning: Conditioning, strength: float) -> tuple[Conditioning]:
        return (with_options(conditioning, {"strength": strength}),)


class ConditioningSetMask:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "append"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "mask": ("MASK",),
                "strength": STRENGTH,
                "set_cond_area": (["default", "mask bounds"],),
            }
        }

    def append(
        self, conditioning: Conditioning, mask: Tensor, set_cond_area: str, strength: float
    ) -> tuple[Conditioning]:
        options = {"mask": mask, "set_area_to_bounds": set_cond_area != "default", "mask_strength": strength}
        return (with_options(conditioning, options),)


class ConditioningZeroOut:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "zero_out"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"conditioning": ("CONDITIONING",)}}

    def zero_out(self, conditioning: Conditioning) -> tuple[Conditioning]:
        return ([[torch.zeros_like(context), options] for context, options in conditioning],)


class ConditioningSetTimestepRange:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "set_range"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "start": number(0.0, step=0.001),
                "end": number(1.0, step=0.001),
            }
        }

    def set_range(self, conditioning: Conditioning, start: float, end: float) -> tuple[Conditioning]:
        return (with_options(conditioning, {"start_percent": start, "end_percent": end}),)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "ConditioningCombine": ConditioningCombine,
    "ConditioningAverage": ConditioningAverage,
    "ConditioningConcat": ConditioningConcat,
    "ConditioningSetArea": ConditioningSetArea,
    "ConditioningSetAreaPercentage": ConditioningSetAreaPercentage,
    "ConditioningSetAreaStrength": ConditioningSetAreaStrength,
    "ConditioningSetMask": ConditioningSetMask,
    "ConditioningZeroOut": ConditioningZeroOut,
    "ConditioningSetTimestepRange": ConditioningSetTimestepRange,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "ConditioningCombine": "Conditioning (Combine)",
    "ConditioningConcat": "Conditioning (Concat)",
    "ConditioningSetArea": "Conditioning (Set Area)",
    "ConditioningSetAreaPercentage": "Conditioning (Set Area with Percentage)",
    "ConditioningSetMask": "Conditioning (Set Mask)",
}
