"""Nodes that inpaint at the model's own size: crop the surroundings of a hole, stitch the result back."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..backends import DiffusionModel, backend
from ..pipeline import crop
from ..pipeline.crop import Stitch, Window
from .inpainting import BLEND

SIZE = 512  # without a model to ask
TOGETHER, ONE_BY_ONE = "together", "one by one"


class SD2InpaintCrop:
    """Crop the surroundings of a hole to the model's own size."""

    CATEGORY = "SD2/inpaint"
    DESCRIPTION = (
        "Crop the surroundings of the masked area and resize them to the size the model was trained at. Small holes "
        "in large images come out sharper and faster. SD2 Inpaint Stitch puts the result back."
    )
    SEARCH_ALIASES = (
        "crop and stitch",
        "inpaint crop",
        "outpaint",
        "only masked",
        "inpaint at full resolution",
        "detailer",
    )
    RETURN_TYPES = ("IMAGE", "MASK", "SD2_STITCH")
    RETURN_NAMES = ("image", "mask", "stitch")
    OUTPUT_IS_LIST = (True, True, True)
    OUTPUT_TOOLTIPS = (
        "The crop, for SD2 VAE Encode (for Inpainting).",
        "The mask of the crop, for the same node.",
        "Where the crop belongs, for SD2 Inpaint Stitch.",
    )
    FUNCTION = "crop"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        size = {"default": 0, "min": 0, "max": 8192, "step": 8}
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The image to inpaint, of any size."}),
                "mask": ("MASK", {"tooltip": "The mask, 1 where to repaint; one for many images, or many for one."}),
                "context": (
                    "FLOAT",
                    {
                        "default": 1.2,
                        "min": 1.0,
                        "max": 20.0,
                        "step": 0.1,
                        "tooltip": "How much the model sees: the crop is the masked area times this.",
                    },
                ),
                "target_width": (
                    "INT",
                    {**size, "tooltip": "Width of the crop in pixels. 0 is the model's own, or 512 without a model."},
                ),
                "target_height": (
                    "INT",
                    {**size, "tooltip": "Height of the crop in pixels. 0 is the model's own, or 512 without a model."},
                ),
                "multiple_of": (
                    "INT",
                    {"default": 8, "min": 8, "max": 128, "step": 8, "tooltip": "Sizes are multiples of this."},
                ),
                "context_pixels": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 8192,
                        "tooltip": "Pixels of the image to show around the masked area, on top of context.",
                    },
                ),
                "holes": (
                    [TOGETHER, ONE_BY_ONE],
                    {
                        "default": TOGETHER,
                        "tooltip": "Several masked areas: all in one crop, or a crop for each, sampled one after "
                        "another.",
                    },
                ),
            },
            "optional": {
                "model": ("MODEL", {"tooltip": "The model, to crop to the size it was trained at."}),
                "context_mask": ("MASK", {"tooltip": "What the crop must show as well, such as the object to match."}),
                "blend_mask": (
                    "MASK",
                    {"tooltip": "What may change when stitched, if not the mask. Where it is 0, pixels stay."},
                ),
            },
        }

    def crop(
        self,
        image: Tensor,
        mask: Tensor,
        context: float = 1.2,
        target_width: int = 0,
        target_height: int = 0,
        multiple_of: int = 8,
        context_pixels: int = 0,
        holes: str = TOGETHER,
        model: DiffusionModel | None = None,
        context_mask: Tensor | None = None,
        blend_mask: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor], list[Stitch]]:
        spec = None if model is None else backend.identify(model)[1]
        size = SIZE if spec is None else spec.size
        cut = crop.crop if holes == TOGETHER else crop.crop_one_by_one
        window = Window(
            size=(target_height or size, target_width or size),
            multiple=multiple_of,
            factor=context,
            margin=context_pixels,
        )
        crops = cut(image, mask, window, context_mask=context_mask, blend_mask=blend_mask)
        return [one.image for one in crops], [one.mask for one in crops], [one.stitch for one in crops]


class SD2InpaintStitch:
    """Stitch a repainted crop back into its image."""

    CATEGORY = "SD2/inpaint"
    DESCRIPTION = (
        "Put repainted crops back where SD2 Inpaint Crop took them. Outside the mask every pixel stays exactly as it "
        "was. The crop may have been upscaled in between."
    )
    SEARCH_ALIASES = ("crop and stitch", "inpaint stitch", "paste back", "uncrop")
    INPUT_IS_LIST = True
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_IS_LIST = (True,)
    OUTPUT_TOOLTIPS = ("The image with the masked area repainted.",)
    FUNCTION = "stitch"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "stitch": ("SD2_STITCH", {"tooltip": "Where the crop belongs, from SD2 Inpaint Crop."}),
                "image": ("IMAGE", {"tooltip": "The repainted crop, of any size."}),
                "color_match": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Match the crop's colors to the image, measured where the mask is 0.",
                    },
                ),
                "blend": BLEND,
            }
        }

    def stitch(
        self, stitch: list[Stitch], image: list[Tensor], color_match: list[bool], blend: list[str]
    ) -> tuple[list[Tensor]]:
        if len(image) != len(stitch):
            raise ValueError(
                f"there are {len(stitch)} crops to stitch and {len(image)} images; connect the images that were made "
                "from these crops"
            )
        return (crop.stitch_all(stitch, image, color_match=color_match[0], blend=blend[0]),)
