"""Stand-ins for the stock nodes that make and change masks."""

from __future__ import annotations

from torch import Tensor

from .schema import CHANNELS, Inputs


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


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "MaskToImage": MaskToImage,
    "ImageToMask": ImageToMask,
    "InvertMask": InvertMask,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "MaskToImage": "Convert Mask to Image",
    "ImageToMask": "Convert Image to Mask",
}
