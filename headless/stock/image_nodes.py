"""Stand-ins for the stock nodes that resize, pad and composite images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...pipeline.images import fit_batch, resize, scale
from ...pipeline.notices import notice
from .schema import Inputs, pixels


class ImageScale:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (["nearest-exact", "bilinear", "area", "bicubic", "lanczos"],),
                "width": pixels(512),
                "height": pixels(512),
                "crop": (["disabled", "center"],),
            }
        }

    def upscale(self, image: Tensor, upscale_method: str, width: int, height: int, crop: str) -> tuple[Tensor]:
        return (scale(image, width, height, method=upscale_method, crop=crop == "center"),)


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
        """Paste `source` [B,h,w,C] on `destination` [B,H,W,C] at (x, y) through `mask`, resized to the source."""
        count, height, width = destination.shape[:3]
        source = fit_batch(source[..., : destination.shape[-1]].to(destination), count)
        if resize_source:
            source = resize(source, "bilinear", width, height)
        if mask is None:
            mask = torch.ones(1, *source.shape[1:3])
        mask = mask.to(destination).reshape(-1, *mask.shape[-2:], 1)
        mask = fit_batch(resize(mask, "bilinear", source.shape[2], source.shape[1]), count)
        if x >= destination.shape[2] or y >= height:
            notice(f"x {x} and y {y} are outside the destination, {width} x {height}, so nothing is pasted")
        rows, columns = slice(y, y + source.shape[1]), slice(x, x + source.shape[2])
        under = destination[:, rows, columns]
        source, mask = source[:, : under.shape[1], : under.shape[2]], mask[:, : under.shape[1], : under.shape[2]]
        result = destination.clone()
        result[:, rows, columns] = mask * source + (1 - mask) * under
        return (result,)


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
    "ImageCompositeMasked": ImageCompositeMasked,
    "ImagePadForOutpaint": ImagePadForOutpaint,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "ImageScale": "Upscale Image",
    "ImagePadForOutpaint": "Pad Image for Outpainting",
}
