"""Stand-ins for the stock nodes that make, resize, pad and composite images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...pipeline.images import fit_batch, resize, scale
from ...pipeline.notices import notice
from .schema import CROPS, IMAGE_METHODS, Inputs, number, pixels


class ImageScale:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (IMAGE_METHODS,),
                "width": pixels(512),
                "height": pixels(512),
                "crop": (CROPS,),
            }
        }

    def upscale(self, image: Tensor, upscale_method: str, width: int, height: int, crop: str) -> tuple[Tensor]:
        return (scale(image, width, height, method=upscale_method, crop=crop == "center"),)


class ImageScaleBy:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        by = number(1.0, low=0.01, high=8.0)
        return {"required": {"image": ("IMAGE",), "upscale_method": (IMAGE_METHODS,), "scale_by": by}}

    def upscale(self, image: Tensor, upscale_method: str, scale_by: float) -> tuple[Tensor]:
        height, width = (max(1, round(length * scale_by)) for length in image.shape[1:3])
        return (resize(image, upscale_method, width, height),)


class ImageScaleToTotalPixels(ImageScaleBy):
    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        size = number(1.0, low=0.01, high=16.0)
        return {"required": {"image": ("IMAGE",), "upscale_method": (IMAGE_METHODS,), "megapixels": size}}

    def upscale(self, image: Tensor, upscale_method: str, megapixels: float) -> tuple[Tensor]:
        """Scale to megapixels times 1024 x 1024 pixels."""
        area = image.shape[1] * image.shape[2]
        return super().upscale(image, upscale_method, math.sqrt(int(megapixels * 1024 * 1024) / area))


class ImageInvert:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "invert"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"image": ("IMAGE",)}}

    def invert(self, image: Tensor) -> tuple[Tensor]:
        return (1 - image,)


class ImageBatch:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "batch"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"image1": ("IMAGE",), "image2": ("IMAGE",)}}

    def batch(self, image1: Tensor, image2: Tensor) -> tuple[Tensor]:
        """Join two batches; image2 is cut and resized to the size of image1."""
        height, width = image1.shape[1:3]
        if image2.shape[1:3] != (height, width):
            image2 = scale(image2, width, height, method="bilinear", crop=True)
        return (torch.cat([image1, image2]),)


class EmptyImage:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "width": pixels(512, low=1),
                "height": pixels(512, low=1),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
                "color": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1}),
            }
        }

    def generate(self, width: int, height: int, batch_size: int = 1, color: int = 0) -> tuple[Tensor]:
        """Fill images with a color, 0xRRGGBB."""
        channels = torch.tensor([color >> shift & 0xFF for shift in (16, 8, 0)]) / 0xFF
        return (channels.expand(batch_size, height, width, 3).clone(),)


class ImageCompositeMasked:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "composite"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "destination": ("IMAGE",),
                "source": ("IMAGE",),
                "x": pixels(0),
                "y": pixels(0),
                "resize_source": ("BOOLEAN", {"default": False}),
            },
            "optional": {"mask": ("MASK",)},
        }

    def composite(
        self, destination: Tensor, source: Tensor, x: int, y: int, resize_source: bool, mask: Tensor | None = None
    ) -> tuple[Tensor]:
        return (paste(destination, source, x, y, resize_source, mask),)


def paste(
    destination: Tensor, source: Tensor, x: int, y: int, resize_source: bool, mask: Tensor | None = None
) -> Tensor:
    """Paste `source` [B,h,w,C] on `destination` [B,H,W,C] at (x, y) through `mask`, resized to the source.

    resize_source: stretch the source to the destination's size first.
    """
    count, height, width = destination.shape[:3]
    source = fit_batch(source[..., : destination.shape[-1]].to(destination), count)
    if resize_source:
        source = resize(source, "bilinear", width, height)
    if mask is None:
        mask = torch.ones(1, *source.shape[1:3])
    mask = mask.to(destination).reshape(-1, *mask.shape[-2:], 1)
    mask = fit_batch(resize(mask, "bilinear", source.shape[2], source.shape[1]), count)
    if x >= width or y >= height:
        notice("x and y are outside the destination, so nothing is pasted; set them to a place inside it")
    rows, columns = slice(y, y + source.shape[1]), slice(x, x + source.shape[2])
    under = destination[:, rows, columns]
    source, mask = source[:, : under.shape[1], : under.shape[2]], mask[:, : under.shape[1], : under.shape[2]]
    result = destination.clone()
    result[:, rows, columns] = mask * source + (1 - mask) * under
    return result


class ImagePadForOutpaint:
    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "expand_image"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        sides = {side: pixels(0, step=8) for side in ("left", "top", "right", "bottom")}
        return {"required": {"image": ("IMAGE",), **sides, "feathering": pixels(40)}}

    def expand_image(
        self, image: Tensor, left: int, top: int, right: int, bottom: int, feathering: int
    ) -> tuple[Tensor, Tensor]:
        """Pad [B,H,W,C] with gray; the mask [1,H',W'] is 1 there and falls to 0 inside over `feathering` px."""
        height, width = image.shape[1:3]
        padded = F.pad(image.float(), (0, 0, left, right, top, bottom), value=0.5)
        inside = torch.zeros(height, width)
        if not (left or top or right or bottom):
            notice("left, top, right and bottom are 0, so nothing is padded and the mask is empty; set one of them")
        elif feathering * 2 >= min(height, width):
            notice(
                f"feathering {feathering} is too large for an image of {width} x {height}, so its edge stays sharp; "
                f"use at most {(min(height, width) - 1) // 2}"
            )
        if 0 < feathering * 2 < min(height, width):
            rows, columns = torch.arange(height)[:, None].float(), torch.arange(width)[None].float()
            far = torch.full((height, width), float(max(height, width)))
            sides = ((top, rows), (bottom, height - rows), (left, columns), (right, width - columns))
            for distance in (distance for size, distance in sides if size):
                far = torch.minimum(far, distance)
            inside = ((feathering - far) / feathering).clamp(min=0) ** 2
        return padded, F.pad(inside, (left, right, top, bottom), value=1.0)[None]


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "ImageScale": ImageScale,
    "ImageScaleBy": ImageScaleBy,
    "ImageScaleToTotalPixels": ImageScaleToTotalPixels,
    "ImageInvert": ImageInvert,
    "ImageBatch": ImageBatch,
    "EmptyImage": EmptyImage,
    "ImageCompositeMasked": ImageCompositeMasked,
    "ImagePadForOutpaint": ImagePadForOutpaint,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "ImageScale": "Upscale Image",
    "ImageScaleBy": "Upscale Image By",
    "ImageScaleToTotalPixels": "Scale Image to Total Pixels",
    "ImageInvert": "Invert Image",
    "ImageBatch": "Batch Images",
    "ImagePadForOutpaint": "Pad Image for Outpainting",
}
