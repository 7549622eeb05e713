"""Invisible watermarks, as the reference scripts put them: dwtDct of the invisible-watermark package."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .images import normalize
from .notices import notice

MESSAGE = "SDV2"  # of the reference scripts of 2.x
METHOD = "dwtDct"
LEAST_PIXELS = 256 * 256  # the package refuses fewer
BLOCK = 8  # pixels on each side of a block that holds one bit


def put(image: Tensor, message: str = MESSAGE) -> Tensor:
    """Put `message` into images [B, H, W, C] in 0..1, rounded to 8 bits -> [B, H, W, 3].

    The method changes blue chroma by up to half a step of 36 in 255, and loses bits where it is flat or far from gray:
    a notice names the images that the message cannot be read back from. ValueError without the package, for images of
    fewer than 65536 pixels, and for a message that does not fit.
    """
    image = normalize(image)
    content = message.encode()
    _check(image, len(content))
    encoder = _package().WatermarkEncoder()
    encoder.set_watermark("bytes", content)
    pixels = [encoder.encode(_to_bgr(one), METHOD)[..., ::-1].astype(np.float32) / 255 for one in image]
    marked = torch.from_numpy(np.stack(pixels)).to(image)
    if lost := [str(number) for number, found in enumerate(read(marked, len(content)), 1) if found != message]:
        which = f"image {', '.join(lost)}" if len(image) > 1 else "the image"
        notice(
            f"the watermark cannot be read back from {which}, because its colors are too flat or too strong for the "
            "method; do not rely on it"
        )
    return marked


def read(image: Tensor, length: int = len(MESSAGE)) -> list[str]:
    """The messages of `length` bytes in images [B, H, W, C]; "" where the bits are no printable text.

    ValueError as in `put`.
    """
    image = normalize(image)
    _check(image, length)
    decoder = _package().WatermarkDecoder("bytes", 8 * length)
    return [_printable(decoder.decode(_to_bgr(one), METHOD)) for one in image]


def _check(image: Tensor, length: int) -> None:
    height, width = image.shape[1:3]
    fits = (height // BLOCK) * (width // BLOCK) // 8
    if height * width < LEAST_PIXELS or fits == 0:
        raise ValueError(f"the image is {width} x {height}, and a watermark needs 256 x 256 pixels; upscale it first")
    if not 0 < length <= fits:
        raise ValueError(
            f"the watermark's text is {length} bytes long; an image of {width} x {height} holds 1 to {fits}"
        )


def _to_bgr(image: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """[H, W, 3] RGB in 0..1 -> uint8 BGR."""
    return np.ascontiguousarray((image.clamp(0, 1) * 255).round().byte().cpu().numpy()[..., ::-1])


def _printable(content: bytes) -> str:
    text = content.decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else ""


def _package() -> Any:  # noqa: ANN401  untyped, and an extra
    try:
        import imwatermark
    except ImportError as error:
        raise ValueError(
            f"the invisible-watermark package cannot be imported ({error}); run pip install invisible-watermark in "
            "the Python that runs this"
        ) from error
    return imwatermark
