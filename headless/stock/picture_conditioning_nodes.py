"""Stand-ins for the stock nodes that condition a model on pictures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...pipeline import unclip, upscale
from ...pipeline.images import fill_gray, fit_batch, scale
from ...pipeline.types import Conditioning, ImageEmbeddings, with_options
from .schema import Inputs, Latent, Wire, number

STRIDE = 8  # pixels per latent pixel, as these nodes assume it


class UnCLIPConditioning:
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "apply_adm"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "clip_vision_output": ("CLIP_VISION_OUTPUT",),
                "strength": number(1.0, low=-10.0, high=10.0),
                "noise_augmentation": number(0.0),
            }
        }

    def apply_adm(
        self,
        conditioning: Conditioning,
        clip_vision_output: ImageEmbeddings,
        strength: float,
        noise_augmentation: float,
    ) -> tuple[Conditioning]:
        """Add one more image, whose noise the sampler's seed draws."""
        if strength == 0:
            return (conditioning,)
        image = {
            "clip_vision_output": clip_vision_output,
            "strength": strength,
            "noise_augmentation": noise_augmentation,
        }
        key = unclip.IMAGES
        return ([[context, {**given, key: [*given.get(key, []), image]}] for context, given in conditioning],)


class SD4XUpscaleConditioning:
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "images": ("IMAGE",),
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "scale_ratio": number(4.0, high=10.0),
                "noise_augmentation": number(0.0, step=0.001),
            }
        }

    def encode(
        self,
        images: Tensor,
        positive: Conditioning,
        negative: Conditioning,
        scale_ratio: float,
        noise_augmentation: float,
    ) -> tuple[Conditioning, Conditioning, Latent]:
        """Scale the images to the latent's size, a quarter of scale_ratio times theirs."""
        height, width = (round(length * scale_ratio) // upscale.FACTOR for length in images.shape[1:3])
        if min(height, width) < 1:
            raise ValueError(f"scale_ratio is {scale_ratio}, which leaves no pixel of the image; set it to about 4")
        image = scale(images[..., :3].float(), width, height, method="bilinear", crop=True)
        options = {"concat_image": image.movedim(-1, 1) * 2 - 1, "noise_augmentation": noise_augmentation}
        latent = {"samples": torch.zeros(len(images), 4, height, width)}
        return with_options(positive, options), with_options(negative, options), latent


class VAEEncodeForInpaint:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        grow = {"default": 6, "min": 0, "max": 64, "step": 1}
        return {"required": {"pixels": ("IMAGE",), "vae": ("VAE",), "mask": ("MASK",), "grow_mask_by": ("INT", grow)}}

    def encode(self, vae: Wire, pixels: Tensor, mask: Tensor, grow_mask_by: int = 6) -> tuple[Latent]:
        """Encode the image with gray where the mask is; a box of grow_mask_by pixels dilates the noise mask."""
        pixels, mask = _cut(pixels[..., :3].float(), mask, vae.downscale_ratio)
        grown = mask.round()
        if grow_mask_by:
            grown = F.max_pool2d(grown, grow_mask_by, stride=1, padding=grow_mask_by // 2)
        height, width = mask.shape[-2:]
        samples = vae.encode(_without(pixels, mask))
        return ({"samples": samples, "noise_mask": grown[:, :, :height, :width]},)


class InpaintModelConditioning:
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "vae": ("VAE",),
                "pixels": ("IMAGE",),
                "mask": ("MASK",),
                "noise_mask": ("BOOLEAN", {"default": True}),
            }
        }

    def encode(
        self,
        positive: Conditioning,
        negative: Conditioning,
        pixels: Tensor,
        vae: Wire,
        mask: Tensor,
        noise_mask: bool = True,
    ) -> tuple[Conditioning, Conditioning, Latent]:
        """Encode the image twice: whole as the latent, and with gray where the mask is as the condition."""
        cut, mask = _cut(pixels[..., :3].float(), mask, STRIDE)
        options = {"concat_latent_image": vae.encode(_without(cut, mask)), "concat_mask": mask}
        latent = {"samples": vae.encode(pixels[..., :3])}
        if noise_mask:
            latent["noise_mask"] = mask
        return with_options(positive, options), with_options(negative, options), latent


def _cut(pixels: Tensor, mask: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Resize the mask to the image, [N, 1, H, W], and cut both around the middle to multiples in height and width."""
    mask = F.interpolate(mask.float().reshape(-1, 1, *mask.shape[-2:]), size=pixels.shape[1:3], mode="bilinear")
    top, left = (length % multiple // 2 for length in pixels.shape[1:3])
    height, width = (length // multiple * multiple for length in pixels.shape[1:3])
    rows, columns = slice(top, top + height), slice(left, left + width)
    return pixels[:, rows, columns], mask[:, :, rows, columns]


def _without(pixels: Tensor, mask: Tensor) -> Tensor:
    """Gray the image [B, H, W, 3] where the mask [N, 1, H, W] is more than one half."""
    return fill_gray(pixels, fit_batch(mask.round()[:, 0], len(pixels)) > 0)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "unCLIPConditioning": UnCLIPConditioning,
    "SD_4XUpscale_Conditioning": SD4XUpscaleConditioning,
    "VAEEncodeForInpaint": VAEEncodeForInpaint,
    "InpaintModelConditioning": InpaintModelConditioning,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "VAEEncodeForInpaint": "VAE Encode (for Inpainting)",
}
