"""Nodes around a mask: prepare it, encode what it covers, lay the result back."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ..pipeline import blend, images, inpaint, masks
from ..pipeline.types import Autoencoder, Conditioning, Latent, with_options


class SD2MaskPreprocess:
    """A mask from any source, ready to sample and to stitch with."""

    CATEGORY = "SD2/inpaint"
    DESCRIPTION = (
        "Clean a mask and change its size. mask says where to repaint; blend_mask has the same area and, with blur, a "
        "soft edge outside it for laying the result back."
    )
    SEARCH_ALIASES = ("grow mask", "blur mask", "feather mask", "expand mask", "invert mask", "threshold mask")
    RETURN_TYPES = ("MASK", "MASK")
    RETURN_NAMES = ("mask", "blend_mask")
    OUTPUT_TOOLTIPS = (
        "Where to repaint, for SD2 VAE Encode (for Inpainting).",
        "The same with a soft edge, for SD2 Composite. Where it is 0 the original stays untouched.",
    )
    FUNCTION = "process"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "mask": ("MASK", {"tooltip": "The mask, 1 where to repaint; any size and number."}),
                "threshold": (
                    "FLOAT",
                    {
                        "default": 0.5,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "What reaches this value is repainted, all else is kept. 0 keeps the mask soft.",
                    },
                ),
                "grow": (
                    "INT",
                    {
                        "default": 0,
                        "min": -512,
                        "max": 512,
                        "tooltip": "Widen the mask by so many pixels on every side; below 0 makes it smaller.",
                    },
                ),
                "blur": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 512,
                        "tooltip": "Width in pixels of the soft edge of blend_mask, outside the mask. "
                        "The mask for sampling is not blurred.",
                    },
                ),
                "fill_holes": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Also repaint what the mask encloses, so that an outline is enough.",
                    },
                ),
                "invert": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Swap what is repainted and what is kept, before all else."},
                ),
            },
            "optional": {"image": ("IMAGE", {"tooltip": "If given, the masks get the size of this picture."})},
        }

    def process(
        self,
        mask: Tensor,
        threshold: float = 0.5,
        grow: int = 0,
        blur: int = 0,
        fill_holes: bool = False,
        invert: bool = False,
        image: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        size = None if image is None else (image.shape[1], image.shape[2])
        return masks.preprocess(
            mask, size, level=threshold, grow_px=grow, blur_px=blur, fill=fill_holes, invert=invert
        )


class SD2VAEEncodeForInpaint:
    """A picture and its mask as the conditioning and the latent of an inpainting run."""

    CATEGORY = "SD2/inpaint"
    DESCRIPTION = (
        "Prepare a picture for an inpainting checkpoint: the mask and the masked picture go into the conditioning, "
        "the picture itself into the latent. Any size: what is no multiple of 8 is padded, and SD2 VAE Decode cuts it "
        "back."
    )
    SEARCH_ALIASES = ("inpaint", "inpaint model conditioning", "vae encode inpaint", "masked content")
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    RETURN_NAMES = ("positive", "negative", "latent")
    OUTPUT_TOOLTIPS = (
        "The positive conditioning, with the mask and the masked picture.",
        "The negative conditioning, with the mask and the masked picture.",
        "The picture with its masked area filled, as a latent.",
    )
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "positive": ("CONDITIONING", {"tooltip": "The encoded prompt."}),
                "negative": ("CONDITIONING", {"tooltip": "The encoded negative prompt."}),
                "vae": ("VAE", {"tooltip": "The autoencoder, of the same checkpoint as the model."}),
                "image": ("IMAGE", {"tooltip": "The picture to repaint a part of."}),
                "mask": ("MASK", {"tooltip": "1 where to repaint; any size and number."}),
                "fill": (
                    list(images.FILLS),
                    {
                        "default": "original",
                        "tooltip": "What the masked area holds when sampling starts. It matters only with a denoise "
                        "below 1: original changes what is there, grey and noise forget it, surroundings removes it.",
                    },
                ),
                "keep_unmasked": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Hold the rest of the latent fixed while sampling. Off, as in the authors' own "
                        "script, the model redraws it too, and SD2 Composite puts the original back.",
                    },
                ),
            }
        }

    def encode(
        self,
        positive: Conditioning,
        negative: Conditioning,
        vae: Autoencoder,
        image: Tensor,
        mask: Tensor,
        fill: str = "original",
        keep_unmasked: bool = True,
    ) -> tuple[Conditioning, Conditioning, Latent]:
        options, latent = inpaint.encode(vae, image, mask, fill, keep_unmasked)
        if not options["concat_mask"].any():
            logging.getLogger("sd2_family").warning(
                "the mask never reaches 0.5 (its highest value is %.2f), so the image stays unchanged; draw a mask, "
                "or raise a faint one with SD2 Mask Preprocess",
                float(mask.max()),
            )
        return with_options(positive, options), with_options(negative, options), latent


class SD2Composite:
    """The repainted area over the original picture."""

    CATEGORY = "SD2/inpaint"
    DESCRIPTION = (
        "Lay the generated picture over the original through the mask. Where the mask is 0, the result is the "
        "original to the last bit."
    )
    SEARCH_ALIASES = ("paste back", "stitch", "image composite masked", "blend images")
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The original picture with the masked area repainted.",)
    FUNCTION = "composite"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "original": ("IMAGE", {"tooltip": "The picture before inpainting."}),
                "generated": ("IMAGE", {"tooltip": "The decoded picture; resized if its size differs."}),
                "mask": ("MASK", {"tooltip": "1 where the generated picture shows; in between, both are mixed."}),
                "color_match": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Correct the generated picture's colours by comparing both where the mask is 0.",
                    },
                ),
            }
        }

    def composite(self, original: Tensor, generated: Tensor, mask: Tensor, color_match: bool = True) -> tuple[Tensor]:
        return (blend.composite(original, generated, mask, color_match=color_match),)
