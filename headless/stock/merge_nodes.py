"""Stand-ins for the stock nodes that merge models and text encoders."""

from __future__ import annotations

from ...pipeline.merge import Shares, merge_models, merge_text_encoders
from .schema import Inputs, Wire, number

RATIO = number(1.0)  # of the first
MULTIPLIER = number(1.0, low=-10.0, high=10.0)


def _evenly(first: float, second: float) -> Shares:
    return lambda key: (first, second)


def _models(**widgets: Wire) -> Inputs:
    return {"required": {"model1": ("MODEL",), "model2": ("MODEL",), **widgets}}


def _text_encoders(**widgets: Wire) -> Inputs:
    return {"required": {"clip1": ("CLIP",), "clip2": ("CLIP",), **widgets}}


class _ModelMerge:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "merge"


class _CLIPMerge:
    RETURN_TYPES = ("CLIP",)
    FUNCTION = "merge"


class ModelMergeSimple(_ModelMerge):
    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return _models(ratio=RATIO)

    def merge(self, model1: Wire, model2: Wire, ratio: float) -> tuple[Wire]:
        return (merge_models(model1, model2, _evenly(ratio, 1 - ratio)),)


class ModelMergeAdd(_ModelMerge):
    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return _models()

    def merge(self, model1: Wire, model2: Wire) -> tuple[Wire]:
        return (merge_models(model1, model2, _evenly(1, 1)),)


class ModelMergeSubtract(_ModelMerge):
    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return _models(multiplier=MULTIPLIER)

    def merge(self, model1: Wire, model2: Wire, multiplier: float) -> tuple[Wire]:
        return (merge_models(model1, model2, _evenly(multiplier, -multiplier)),)


class ModelMergeBlocks(_ModelMerge):
    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return _models(input=RATIO, middle=RATIO, out=RATIO)

    def merge(self, model1: Wire, model2: Wire, **ratios: float) -> tuple[Wire]:
        """Mix by the part of the UNet; the embedding of the timestep goes with the input blocks."""

        def shares(key: str) -> tuple[float, float]:
            ratio = next((ratio for part, ratio in ratios.items() if key.startswith(part)), ratios["input"])
            return ratio, 1 - ratio

        return (merge_models(model1, model2, shares),)


class CLIPMergeSimple(_CLIPMerge):
    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return _text_encoders(ratio=RATIO)

    def merge(self, clip1: Wire, clip2: Wire, ratio: float) -> tuple[Wire]:
        return (merge_text_encoders(clip1, clip2, _evenly(ratio, 1 - ratio)),)


class CLIPMergeAdd(_CLIPMerge):
    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return _text_encoders()

    def merge(self, clip1: Wire, clip2: Wire) -> tuple[Wire]:
        return (merge_text_encoders(clip1, clip2, _evenly(1, 1)),)


class CLIPMergeSubtract(_CLIPMerge):
    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return _text_encoders(multiplier=MULTIPLIER)

    def merge(self, clip1: Wire, clip2: Wire, multiplier: float) -> tuple[Wire]:
        return (merge_text_encoders(clip1, clip2, _evenly(multiplier, -multiplier)),)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "ModelMergeSimple": ModelMergeSimple,
    "ModelMergeBlocks": ModelMergeBlocks,
    "ModelMergeAdd": ModelMergeAdd,
    "ModelMergeSubtract": ModelMergeSubtract,
    "CLIPMergeSimple": CLIPMergeSimple,
    "CLIPMergeAdd": CLIPMergeAdd,
    "CLIPMergeSubtract": CLIPMergeSubtract,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
