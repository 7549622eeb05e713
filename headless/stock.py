"""Stand-ins for the stock nodes that our workflows use, with ComfyUI's ids, inputs, widget order and behavior."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..pipeline.images import resize, scale
from ..pipeline.types import Sampling
from . import stock_sampler
from .stock_files import LoadImage, LoadImageMask, PreviewAny, PreviewImage, SaveImage

MAX_RESOLUTION = 16384
CHANNELS = ["red", "green", "blue", "alpha"]
Inputs = dict[str, Any]
Latent = dict[str, Any]
Wire = Any  # CLIP, VAE, CLIP_VISION: objects with the methods of ComfyUI's


def _pixels(default: int, *, low: int = 0, step: int = 1) -> tuple[str, dict[str, int]]:
    return "INT", {"default": default, "min": low, "max": MAX_RESOLUTION, "step": step}


# Text, vision and latents


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


class EmptyLatentImage:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "generate"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "width": _pixels(512, low=16, step=8),
                "height": _pixels(512, low=16, step=8),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
            }
        }

    def generate(self, width: int, height: int, batch_size: int = 1) -> tuple[Latent]:
        return ({"samples": torch.zeros(batch_size, 4, height // 8, width // 8)},)


class VAEEncode:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"pixels": ("IMAGE",), "vae": ("VAE",)}}

    def encode(self, vae: Wire, pixels: Tensor) -> tuple[Latent]:
        return ({"samples": vae.encode(pixels[..., :3])},)


class VAEDecode:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",)}}

    def decode(self, vae: Wire, samples: Latent) -> tuple[Tensor]:
        return (vae.decode(samples["samples"]),)


class SetLatentNoiseMask:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "set_mask"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"samples": ("LATENT",), "mask": ("MASK",)}}

    def set_mask(self, samples: Latent, mask: Tensor) -> tuple[Latent]:
        return ({**samples, "noise_mask": mask.reshape(-1, 1, *mask.shape[-2:])},)


class RepeatLatentBatch:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "repeat"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"samples": ("LATENT",), "amount": ("INT", {"default": 1, "min": 1, "max": 64})}}

    def repeat(self, samples: Latent, amount: int) -> tuple[Latent]:
        """Repeat the batch `amount` times; later copies get new batch indices, so that their noise differs."""
        count = len(samples["samples"])
        repeated = {**samples, "samples": _repeat(samples["samples"], count * amount)}
        mask = samples.get("noise_mask")
        if mask is not None and len(mask) > 1:
            repeated["noise_mask"] = _repeat(_repeat(mask, max(count, len(mask))), max(count, len(mask)) * amount)
        if "batch_index" in samples:
            first = samples["batch_index"]
            span = max(first) - min(first) + 1
            repeated["batch_index"] = [index + copy * span for copy in range(amount) for index in first]
        return (repeated,)


class KSampler:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        seed = {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF, "control_after_generate": True}
        return {
            "required": {
                "model": ("MODEL",),
                "seed": ("INT", seed),
                "steps": ("INT", {"default": 20, "min": 1, "max": 10000}),
                "cfg": ("FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1}),
                "sampler_name": (stock_sampler.SAMPLER_NAMES,),
                "scheduler": (stock_sampler.SCHEDULER_NAMES,),
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "latent_image": ("LATENT",),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
            }
        }

    def sample(
        self, model: Wire, positive: Wire, negative: Wire, latent_image: Latent, **widgets: Wire
    ) -> tuple[Latent]:
        return (stock_sampler.sample(model, Sampling(**widgets), positive, negative, latent_image),)


def _repeat(batch: Tensor, count: int) -> Tensor:
    """Repeat `batch` to `count` entries."""
    return batch[torch.arange(count) % len(batch)]


# Images and masks


class ImageScale:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (["nearest-exact", "bilinear", "area", "bicubic", "lanczos"],),
                "width": _pixels(512),
                "height": _pixels(512),
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
                "x": _pixels(0),
                "y": _pixels(0),
                "resize_source": ("BOOLEAN", {"default": False}),
            },
            "optional": {"mask": ("MASK",)},
        }

    def composite(
        self, destination: Tensor, source: Tensor, x: int, y: int, resize_source: bool, mask: Tensor | None = None
    ) -> tuple[Tensor]:
        """Paste `source` [B,h,w,C] on `destination` [B,H,W,C] at (x, y) through `mask`, resized to the source."""
        count, height, width = destination.shape[:3]
        source = _repeat(source[..., : destination.shape[-1]].to(destination), count)
        if resize_source:
            source = resize(source, "bilinear", width, height)
        if mask is None:
            mask = torch.ones(1, *source.shape[1:3])
        mask = mask.to(destination).reshape(-1, *mask.shape[-2:], 1)
        mask = _repeat(resize(mask, "bilinear", source.shape[2], source.shape[1]), count)
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
        sides = {side: _pixels(0, step=8) for side in ("left", "top", "right", "bottom")}
        return {"required": {"image": ("IMAGE",), **sides, "feathering": _pixels(40)}}

    def expand_image(
        self, image: Tensor, left: int, top: int, right: int, bottom: int, feathering: int
    ) -> tuple[Tensor, Tensor]:
        """Pad [B,H,W,C] with gray; the mask [1,H',W'] is 1 there and falls to 0 inside over `feathering` px."""
        height, width = image.shape[1:3]
        padded = F.pad(image.float(), (0, 0, left, right, top, bottom), value=0.5)
        inside = torch.zeros(height, width)
        if 0 < feathering * 2 < min(height, width):
            rows, columns = torch.arange(height)[:, None].float(), torch.arange(width)[None].float()
            far = torch.full((height, width), float(max(height, width)))
            sides = ((top, rows), (bottom, height - rows), (left, columns), (right, width - columns))
            for distance in (distance for size, distance in sides if size):
                far = torch.minimum(far, distance)
            inside = ((feathering - far) / feathering).clamp(min=0) ** 2
        return padded, F.pad(inside, (left, right, top, bottom), value=1.0)[None]


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
    "CLIPTextEncode": CLIPTextEncode,
    "CLIPVisionEncode": CLIPVisionEncode,
    "EmptyLatentImage": EmptyLatentImage,
    "ImageCompositeMasked": ImageCompositeMasked,
    "ImagePadForOutpaint": ImagePadForOutpaint,
    "ImageScale": ImageScale,
    "ImageToMask": ImageToMask,
    "InvertMask": InvertMask,
    "KSampler": KSampler,
    "LoadImage": LoadImage,
    "LoadImageMask": LoadImageMask,
    "MaskToImage": MaskToImage,
    "PreviewAny": PreviewAny,
    "PreviewImage": PreviewImage,
    "RepeatLatentBatch": RepeatLatentBatch,
    "SaveImage": SaveImage,
    "SetLatentNoiseMask": SetLatentNoiseMask,
    "VAEDecode": VAEDecode,
    "VAEEncode": VAEEncode,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "CLIPTextEncode": "CLIP Text Encode (Prompt)",
    "CLIPVisionEncode": "CLIP Vision Encode",
    "EmptyLatentImage": "Empty Latent Image",
    "ImagePadForOutpaint": "Pad Image for Outpainting",
    "ImageScale": "Upscale Image",
    "ImageToMask": "Convert Image to Mask",
    "KSampler": "KSampler",
    "LoadImage": "Load Image",
    "LoadImageMask": "Load Image (as Mask)",
    "MaskToImage": "Convert Mask to Image",
    "PreviewAny": "Preview Any",
    "PreviewImage": "Preview Image",
    "RepeatLatentBatch": "Repeat Latent Batch",
    "SaveImage": "Save Image",
    "SetLatentNoiseMask": "Set Latent Noise Mask",
    "VAEDecode": "VAE Decode",
    "VAEEncode": "VAE Encode",
}
