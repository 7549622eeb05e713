"""Nodes for inpainting: prepare or draw a mask, encode the masked image, composite the result."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pipeline import images, inpaint, masks
from ..pipeline.blend import BLENDS, composite
from ..pipeline.lama_masks import SHAPES, covering
from ..pipeline.types import Autoencoder, Conditioning, Latent, with_options

BLEND = (
    list(BLENDS),
    {
        "default": "membrane",
        "tooltip": "How the edge is hidden, always inside the mask. feather fades through the soft edge of the mask. "
        "membrane does too, and shifts the generated colors smoothly until they meet the original's. none pastes.",
    },
)
SIDES = {"left": "to the left", "top": "on top", "right": "to the right", "bottom": "at the bottom"}


def _distance(tooltip: str, *, most: float) -> tuple[str, dict[str, Any]]:
    """A widget for how far from 0 or 1 a mask's values are rounded to it."""
    return "FLOAT", {"default": masks.NEARLY, "min": masks.NEARLY, "max": most, "step": 0.01, "tooltip": tooltip}


class SD2MaskPreprocess:
    """Prepare a mask for sampling and compositing."""

    CATEGORY = "SD2/inpaint"
    DESCRIPTION = (
        "Clean, grow or shrink, and blur a mask. mask marks the area to repaint; blend_mask is the same area with a "
        "soft edge inside it, for compositing the result."
    )
    SEARCH_ALIASES = (
        "grow mask",
        "shrink mask",
        "blur mask",
        "feather mask",
        "expand mask",
        "invert mask",
        "threshold mask",
        "stabilize mask",
        "mask hipass filter",
    )
    RETURN_TYPES = ("MASK", "MASK")
    RETURN_NAMES = ("mask", "blend_mask")
    OUTPUT_TOOLTIPS = (
        "The area to repaint, for SD2 VAE Encode (for Inpainting).",
        "The same area with a soft edge inside it, for SD2 Composite. Where it is 0, the original is kept.",
    )
    FUNCTION = "process"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "mask": ("MASK", {"tooltip": "The mask, 1 where to repaint, of any size and batch size."}),
                "threshold": (
                    "FLOAT",
                    {
                        "default": 0.5,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "Repaint where the mask reaches this value; keep the rest. 0 keeps the mask soft.",
                    },
                ),
                "grow": (
                    "INT",
                    {
                        "default": 0,
                        "min": -512,
                        "max": 512,
                        "tooltip": "Grow both masks by this many pixels, so that more is repainted; negative values "
                        "shrink them.",
                    },
                ),
                "blur": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 512,
                        "tooltip": "Width in pixels of the soft edge of blend_mask, inside the mask. SD2 Composite "
                        "fades through it. The mask for sampling stays sharp.",
                    },
                ),
                "fill_holes": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Repaint enclosed areas as well, so that an outline is enough.",
                    },
                ),
                "invert": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Swap the repainted and the kept area before all other steps."},
                ),
            },
            "optional": {  # the widgets as well, so that an API workflow saved before they were added still passes
                "image": ("IMAGE", {"tooltip": "Resize the masks to the size of this image."}),
                "high_pass": _distance(
                    "Values up to this become 0, so that faint traces in a soft mask are not repainted. It matters if "
                    "it is not below threshold.",
                    most=0.97,
                ),
                "stabilize": _distance(
                    "Values this close to 1 become 1, so that the core of a soft mask is fully repainted. It matters "
                    "if threshold is 0.",
                    most=0.98,
                ),
            },
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
        high_pass: float = masks.NEARLY,
        stabilize: float = masks.NEARLY,
    ) -> tuple[Tensor, Tensor]:
        return masks.preprocess(
            mask,
            None if image is None else (image.shape[1], image.shape[2]),
            level=threshold,
            grow_px=grow,
            blur_px=blur,
            fill=fill_holes,
            invert=invert,
            high_pass=high_pass,
            stabilize=stabilize,
        )


class SD2MaskExtend:
    """Extend a mask to chosen sides."""

    CATEGORY = "SD2/inpaint"
    DESCRIPTION = (
        "Extend a mask by pixels to the left, top, right and bottom, for instance down over an object's shadow. To "
        "add canvas for outpainting, use Pad Image for Outpainting."
    )
    SEARCH_ALIASES = ("extend mask", "expand mask", "grow mask to one side", "offset mask")
    RETURN_TYPES = ("MASK",)
    RETURN_NAMES = ("mask",)
    OUTPUT_TOOLTIPS = ("The extended mask, of the same size.",)
    FUNCTION = "extend"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        sides = {
            side: (
                "INT",
                {"default": 0, "min": 0, "max": 8192, "tooltip": f"Pixels to add {where} of what is masked."},
            )
            for side, where in SIDES.items()
        }
        return {"required": {"mask": ("MASK", {"tooltip": "The mask, of any size and batch size."}), **sides}}

    def extend(self, mask: Tensor, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> tuple[Tensor]:
        return (masks.extend(masks.normalize(mask), left=left, top=top, right=right, bottom=bottom),)


class SD2RandomMask:
    """Draw a random mask."""

    CATEGORY = "SD2/inpaint"
    DESCRIPTION = (
        "Draw a random mask of strokes or boxes, as inpainting models are trained and compared on (LaMa). The same "
        "seed gives the same mask."
    )
    SEARCH_ALIASES = ("lama mask", "random inpaint mask", "free-form mask", "benchmark mask")
    RETURN_TYPES = ("MASK",)
    RETURN_NAMES = ("mask",)
    OUTPUT_TOOLTIPS = ("The mask, 1 where to repaint.",)
    FUNCTION = "draw"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        size = {"default": 512, "min": 16, "max": 16384}
        return {
            "required": {
                "width": ("INT", {**size, "tooltip": "Width of the mask in pixels."}),
                "height": ("INT", {**size, "tooltip": "Height of the mask in pixels."}),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 0xFFFFFFFFFFFFFFFF,
                        "control_after_generate": True,
                        "tooltip": "Random seed of the shapes.",
                    },
                ),
                "coverage": (
                    "FLOAT",
                    {
                        "default": 0.25,
                        "min": 0.01,
                        "max": 0.95,
                        "step": 0.01,
                        "tooltip": "The fraction of the image to cover. The shapes stay where the seed puts them, and "
                        "grow until they cover it.",
                    },
                ),
                "kind": (
                    list(SHAPES),
                    {"default": "mixed", "tooltip": "strokes or boxes; mixed lets the seed decide."},
                ),
            }
        }

    def draw(
        self, width: int, height: int, seed: int = 0, coverage: float = 0.25, kind: str = "mixed"
    ) -> tuple[Tensor]:
        return (torch.from_numpy(covering(seed, width, height, coverage=coverage, kind=kind))[None],)


class SD2VAEEncodeForInpaint:
    """Encode an image and its mask for an inpainting model."""

    CATEGORY = "SD2/inpaint"
    DESCRIPTION = (
        "Prepare an image for an inpainting checkpoint: the mask and the masked image go into the conditioning, the "
        "image goes into the latent. Sizes that are not multiples of 8 are padded, and SD2 VAE Decode crops them back."
    )
    SEARCH_ALIASES = ("inpaint", "outpaint", "inpaint model conditioning", "vae encode inpaint", "masked content")
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    RETURN_NAMES = ("positive", "negative", "latent")
    OUTPUT_TOOLTIPS = (
        "The positive conditioning with the mask and the masked image.",
        "The negative conditioning with the mask and the masked image.",
        "The encoded image with its masked area filled.",
    )
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "positive": ("CONDITIONING", {"tooltip": "The encoded prompt."}),
                "negative": ("CONDITIONING", {"tooltip": "The encoded negative prompt."}),
                "vae": ("VAE", {"tooltip": "The autoencoder, from the same checkpoint as the model."}),
                "image": ("IMAGE", {"tooltip": "The image to inpaint."}),
                "mask": ("MASK", {"tooltip": "The mask, 1 where to repaint, of any size and batch size."}),
                "fill": (
                    list(images.FILLS),
                    {
                        "default": "original",
                        "tooltip": "Initial content of the masked area, used only if denoise is below 1. original "
                        "edits what is there, grey and noise discard it, surroundings removes it.",
                    },
                ),
                "keep_unmasked": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Keep the rest of the latent fixed while sampling. If off, as in the authors' "
                        "script, the model redraws it too; SD2 Composite restores the original.",
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
        return with_options(positive, options), with_options(negative, options), latent


class SD2Composite:
    """Composite the repainted area over the original image."""

    CATEGORY = "SD2/inpaint"
    DESCRIPTION = (
        "Composite the generated image over the original where the mask is above 0, and hide the edge inside the "
        "mask. Where the mask is 0, the original pixels are kept exactly."
    )
    SEARCH_ALIASES = ("paste back", "stitch", "outpaint", "image composite masked", "blend images")
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The original image with the masked area repainted.",)
    FUNCTION = "composite"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "original": ("IMAGE", {"tooltip": "The image before inpainting."}),
                "generated": ("IMAGE", {"tooltip": "The decoded image, resized if its size differs."}),
                "mask": (
                    "MASK",
                    {"tooltip": "Where the generated image shows. Where the mask is 0, the original is kept exactly."},
                ),
                "color_match": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Match the generated image's colors to the original, measured where the mask is 0. "
                        "With blend membrane it is rarely needed.",
                    },
                ),
            },
            "optional": {  # so that an API workflow saved before this input was added still passes
                "blend": BLEND,
            },
        }

    def composite(
        self,
        original: Tensor,
        generated: Tensor,
        mask: Tensor,
        color_match: bool = False,
        blend: str = "membrane",
    ) -> tuple[Tensor]:
        return (composite(original, generated, mask, color_match=color_match, blend=blend),)
