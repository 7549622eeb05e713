"""Stand-ins for the stock nodes that resize, turn, cut and composite latents. Their widgets are in pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from ...pipeline.images import crop_to_aspect, fit_batch, resize
from ...pipeline.masks import fading
from .bislerp import bislerp
from .image_nodes import paste
from .schema import CROPS, Inputs, Latent, number, pixels

STRIDE = 8  # pixels per latent pixel, as these nodes assume it
LEAST = 64  # pixels: the smallest side
METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]


def _resized(samples: Latent, method: str, width: int, height: int, *, crop: bool = False) -> Latent:
    """Resize to width x height latent pixels."""
    x = samples["samples"].movedim(1, -1)
    x = crop_to_aspect(x, width / height) if crop else x
    if method == "bislerp":
        return {**samples, "samples": bislerp(x.movedim(-1, 1), width, height)}
    return {**samples, "samples": resize(x, method, width, height).movedim(-1, 1)}


class LatentUpscale:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        sizes = {name: pixels(512, step=STRIDE) for name in ("width", "height")}
        return {"required": {"samples": ("LATENT",), "upscale_method": (METHODS,), **sizes, "crop": (CROPS,)}}

    def upscale(self, samples: Latent, upscale_method: str, width: int, height: int, crop: str) -> tuple[Latent]:
        """Resize; 0 for one side keeps the aspect, 0 for both keeps the size."""
        if width == height == 0:
            return (samples,)
        rows, columns = samples["samples"].shape[-2:]
        width, height = width and max(LEAST, width), height and max(LEAST, height)
        width = width or max(LEAST, round(columns * height / rows))
        height = height or max(LEAST, round(rows * width / columns))
        return (_resized(samples, upscale_method, width // STRIDE, height // STRIDE, crop=crop == "center"),)


class LatentUpscaleBy:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        by = number(1.5, low=0.01, high=8.0)
        return {"required": {"samples": ("LATENT",), "upscale_method": (METHODS,), "scale_by": by}}

    def upscale(self, samples: Latent, upscale_method: str, scale_by: float) -> tuple[Latent]:
        height, width = (max(1, round(length * scale_by)) for length in samples["samples"].shape[-2:])
        return (_resized(samples, upscale_method, width, height),)


class LatentRotate:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "rotate"

    TURNS = ("none", "90 degrees", "180 degrees", "270 degrees")

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"samples": ("LATENT",), "rotation": (list(cls.TURNS),)}}

    def rotate(self, samples: Latent, rotation: str) -> tuple[Latent]:
        """Turn clockwise."""
        turned = torch.rot90(samples["samples"], k=self.TURNS.index(rotation), dims=[3, 2])
        return ({**samples, "samples": turned},)


class LatentFlip:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "flip"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "samples": ("LATENT",),
                "flip_method": (["x-axis: vertically", "y-axis: horizontally"],),
            }
        }

    def flip(self, samples: Latent, flip_method: str) -> tuple[Latent]:
        return ({**samples, "samples": samples["samples"].flip(2 if flip_method.startswith("x") else 3)},)


class LatentCrop:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "crop"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        sizes = {name: pixels(512, low=LEAST, step=STRIDE) for name in ("width", "height")}
        corner = {name: pixels(0, step=STRIDE) for name in ("x", "y")}
        return {"required": {"samples": ("LATENT",), **sizes, **corner}}

    def crop(self, samples: Latent, width: int, height: int, x: int, y: int) -> tuple[Latent]:
        """Cut a rectangle out, moved so that at least 64 pixels of it are inside."""
        latent = samples["samples"]
        top, left = (
            max(0, min(start // STRIDE, length - LEAST // STRIDE))
            for start, length in zip((y, x), latent.shape[-2:], strict=True)
        )
        cut = latent[:, :, top : top + height // STRIDE, left : left + width // STRIDE]
        return ({**samples, "samples": cut},)


class LatentComposite:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "composite"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        widgets = {name: pixels(0, step=STRIDE) for name in ("x", "y", "feather")}
        return {"required": {"samples_to": ("LATENT",), "samples_from": ("LATENT",), **widgets}}

    def composite(self, samples_to: Latent, samples_from: Latent, x: int, y: int, feather: int = 0) -> tuple[Latent]:
        """Paste samples_from at (x, y), fading in over `feather` pixels at its edges inside samples_to."""
        under: Tensor = samples_to["samples"]
        left, top, fade = x // STRIDE, y // STRIDE, feather // STRIDE
        over = samples_from["samples"][:, :, : max(under.shape[2] - top, 0), : max(under.shape[3] - left, 0)]
        rows, columns = slice(top, top + over.shape[2]), slice(left, left + over.shape[3])
        down = fading(over.shape[2], fade, at_start=top > 0, at_end=rows.stop < under.shape[2])
        across = fading(over.shape[3], fade, at_start=left > 0, at_end=columns.stop < under.shape[3])
        mask = down[:, None] * across
        result = under.clone()
        result[:, :, rows, columns] = mask * over + (1 - mask) * result[:, :, rows, columns]
        return ({**samples_to, "samples": result},)


class LatentCompositeMasked:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "composite"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "destination": ("LATENT",),
                "source": ("LATENT",),
                "x": pixels(0, step=STRIDE),
                "y": pixels(0, step=STRIDE),
                "resize_source": ("BOOLEAN", {"default": False}),
            },
            "optional": {"mask": ("MASK",)},
        }

    def composite(
        self, destination: Latent, source: Latent, x: int, y: int, resize_source: bool, mask: Tensor | None = None
    ) -> tuple[Latent]:
        under, over = (latent["samples"].movedim(1, -1) for latent in (destination, source))
        pasted = paste(under, over, x // STRIDE, y // STRIDE, resize_source, mask)
        return ({**destination, "samples": pasted.movedim(-1, 1)},)


class LatentBlend:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "blend"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"samples1": ("LATENT",), "samples2": ("LATENT",), "blend_factor": number(0.5)}}

    def blend(self, samples1: Latent, samples2: Latent, blend_factor: float) -> tuple[Latent]:
        """Mix two latents, blend_factor of the first; the second is resized to it."""
        first: Tensor = samples1["samples"]
        if samples2["samples"].shape != first.shape:
            samples2 = _resized(samples2, "bicubic", first.shape[3], first.shape[2], crop=True)
        second = fit_batch(samples2["samples"], len(first))
        return ({**samples1, "samples": first * blend_factor + second * (1 - blend_factor)},)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "LatentUpscale": LatentUpscale,
    "LatentUpscaleBy": LatentUpscaleBy,
    "LatentRotate": LatentRotate,
    "LatentFlip": LatentFlip,
    "LatentCrop": LatentCrop,
    "LatentComposite": LatentComposite,
    "LatentCompositeMasked": LatentCompositeMasked,
    "LatentBlend": LatentBlend,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "LatentUpscale": "Upscale Latent",
    "LatentUpscaleBy": "Upscale Latent By",
    "LatentRotate": "Rotate Latent",
    "LatentFlip": "Flip Latent",
    "LatentCrop": "Crop Latent",
    "LatentComposite": "Latent Composite",
    "LatentBlend": "Latent Blend",
}
