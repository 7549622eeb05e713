"""Stand-ins for the stock nodes that make and change masks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ...pipeline.masks import fading
from .schema import CHANNELS, MAX_RESOLUTION, Inputs, number, pixels


class MaskToImage:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "mask_to_image"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"mask": ("MASK",)}}

    def mask_to_image(self, mask: Tensor) -> tuple[Tensor]:
        return (mask.reshape(-1, *mask.shape[-2:], 1).expand(-1, -1, -1, 3),)


class ImageToMask:
    RETURN_TYPES = ("MASK",)
    FUNCTION = "image_to_mask"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"image": ("IMAGE",), "channel": (CHANNELS,)}}

    def image_to_mask(self, image: Tensor, channel: str) -> tuple[Tensor]:
        if CHANNELS.index(channel) >= image.shape[-1]:
            raise ValueError(
                f"the image has no {channel} channel; choose red, green or blue, or use Load Image (as Mask)"
            )
        return (image[..., CHANNELS.index(channel)],)


class InvertMask:
    RETURN_TYPES = ("MASK",)
    FUNCTION = "invert"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"mask": ("MASK",)}}

    def invert(self, mask: Tensor) -> tuple[Tensor]:
        return (1 - mask,)


class SolidMask:
    RETURN_TYPES = ("MASK",)
    FUNCTION = "solid"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        sizes = {name: pixels(512, low=1) for name in ("width", "height")}
        return {"required": {"value": number(1.0), **sizes}}

    def solid(self, value: float, width: int, height: int) -> tuple[Tensor]:
        return (torch.full((1, height, width), value),)


class CropMask:
    RETURN_TYPES = ("MASK",)
    FUNCTION = "crop"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        corner = {name: pixels(0) for name in ("x", "y")}
        sizes = {name: pixels(512, low=1) for name in ("width", "height")}
        return {"required": {"mask": ("MASK",), **corner, **sizes}}

    def crop(self, mask: Tensor, x: int, y: int, width: int, height: int) -> tuple[Tensor]:
        return (_batch(mask)[:, y : y + height, x : x + width],)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "multiply": torch.mul,
    "add": torch.add,
    "subtract": torch.sub,
    "and": lambda a, b: (a.round().bool() & b.round().bool()).float(),
    "or": lambda a, b: (a.round().bool() | b.round().bool()).float(),
    "xor": lambda a, b: (a.round().bool() ^ b.round().bool()).float(),
}


class MaskComposite:
    RETURN_TYPES = ("MASK",)
    FUNCTION = "combine"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "destination": ("MASK",),
                "source": ("MASK",),
                "x": pixels(0),
                "y": pixels(0),
                "operation": (list(OPERATIONS),),
            }
        }

    def combine(self, destination: Tensor, source: Tensor, x: int, y: int, operation: str) -> tuple[Tensor]:
        """Combine the part of destination under source, whose corner is at (x, y); the result is cut to 0..1."""
        result, source = _batch(destination).clone(), _batch(source)
        part = result[:, y : y + source.shape[1], x : x + source.shape[2]]
        part[:] = OPERATIONS[operation](part, source[:, : part.shape[1], : part.shape[2]])
        return (result.clamp(0, 1),)


class FeatherMask:
    RETURN_TYPES = ("MASK",)
    FUNCTION = "feather"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"mask": ("MASK",), **{side: pixels(0) for side in ("left", "top", "right", "bottom")}}}

    def feather(self, mask: Tensor, left: int, top: int, right: int, bottom: int) -> tuple[Tensor]:
        """Fade the mask out toward its sides.

        As in ComfyUI, the fade at the far side begins one pixel inside: its lowest value is on the near edge.
        """
        mask = _batch(mask)
        height, width = mask.shape[1:]
        return (mask * _faded(height, top, bottom)[:, None] * _faded(width, left, right),)


def _faded(length: int, near: int, far: int) -> Tensor:
    """Weights [length] of FeatherMask along one side."""
    near, far = min(near, length), min(far, length)
    return fading(length, near, at_start=True, at_end=False) * fading(length, far, at_start=False, at_end=True).roll(
        1 if far else 0
    )


class GrowMask:
    RETURN_TYPES = ("MASK",)
    FUNCTION = "expand_mask"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        expand = {"default": 0, "min": -MAX_RESOLUTION, "max": MAX_RESOLUTION, "step": 1}
        return {
            "required": {
                "mask": ("MASK",),
                "expand": ("INT", expand),
                "tapered_corners": ("BOOLEAN", {"default": True}),
            }
        }

    def expand_mask(self, mask: Tensor, expand: int, tapered_corners: bool) -> tuple[Tensor]:
        """Dilate (below 0: erode) pixel by pixel, by a cross for tapered corners, else by a square."""
        mask = _batch(mask)
        grown = mask if expand > 0 else -mask
        for _ in range(min(abs(expand), sum(mask.shape[1:]))):
            across = F.max_pool2d(grown, (1, 3), stride=1, padding=(0, 1))
            down = F.max_pool2d(grown if tapered_corners else across, (3, 1), stride=1, padding=(1, 0))
            grown = torch.maximum(across, down)
        return (grown if expand > 0 else -grown,)


def _batch(mask: Tensor) -> Tensor:
    """[B, H, W]."""
    return mask.reshape(-1, *mask.shape[-2:])


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "MaskToImage": MaskToImage,
    "ImageToMask": ImageToMask,
    "InvertMask": InvertMask,
    "SolidMask": SolidMask,
    "CropMask": CropMask,
    "MaskComposite": MaskComposite,
    "FeatherMask": FeatherMask,
    "GrowMask": GrowMask,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "MaskToImage": "Convert Mask to Image",
    "ImageToMask": "Convert Image to Mask",
}
