"""Nodes that put an invisible watermark into an image and read it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..pipeline import watermark


class SD2Watermark:
    """Put an invisible watermark into an image."""

    CATEGORY = "SD2/image"
    DESCRIPTION = (
        "Put an invisible text into an image, as the reference scripts of Stable Diffusion 2 do, to mark it as "
        "generated. Needs the package invisible-watermark and images of at least 256 x 256 pixels."
    )
    SEARCH_ALIASES = ("invisible watermark", "imwatermark", "dwtDct", "SDV2", "mark as generated")
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The image with the watermark, for Save Image. Save it as PNG.",)
    FUNCTION = "put"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The finished image. Later changes can erase the watermark."}),
                "text": (
                    "STRING",
                    {
                        "default": watermark.MESSAGE,
                        "tooltip": "The text to hide. SDV2 is that of the reference scripts; a short text is the most "
                        "robust.",
                    },
                ),
            }
        }

    def put(self, image: Tensor, text: str = watermark.MESSAGE) -> tuple[Tensor]:
        return (watermark.put(image, text),)


class SD2ReadWatermark:
    """Read an invisible watermark."""

    CATEGORY = "SD2/image"
    DESCRIPTION = (
        "Read the text that SD2 Invisible Watermark, or a reference script, put into an image. Needs the package "
        "invisible-watermark."
    )
    SEARCH_ALIASES = ("invisible watermark", "imwatermark", "decode watermark", "detect watermark")
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("text",)
    OUTPUT_TOOLTIPS = ("The text, a line for each image of a batch, for Preview Any. Empty where none is found.",)
    FUNCTION = "read"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The image to read, of the size it was marked at."}),
                "length": (
                    "INT",
                    {
                        "default": len(watermark.MESSAGE),
                        "min": 1,
                        "max": 1024,
                        "tooltip": "Length of the text in bytes: 4 for SDV2. With another length, it is not found.",
                    },
                ),
            }
        }

    def read(self, image: Tensor, length: int = len(watermark.MESSAGE)) -> tuple[str]:
        return ("\n".join(watermark.read(image, length)),)
