"""PIL images and image files to tensors and back, by ComfyUI's rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
from torch import Tensor

UNREADABLE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def open_image(path: Path) -> Image.Image:
    """Open an image and read its header, but not its pixels."""
    try:
        return Image.open(path)
    except UNREADABLE as error:
        raise ValueError(f"{path} is not a readable image ({error}); choose another file") from None


def load(path: Path) -> tuple[Tensor, Tensor]:
    """IMAGE [B,H,W,3] and MASK [B,H,W] of a file: every frame of an animation, turned upright.

    The mask is 1 - alpha; zeros [1,64,64] where there is no alpha.
    """
    with open_image(path) as file:
        try:
            frames = [ImageOps.exif_transpose(frame) for frame in ImageSequence.Iterator(file)]
        except UNREADABLE as error:
            raise ValueError(f"{path} is a damaged image ({error}); choose another file") from None
        if file.format == "MPO":  # a stereo or burst photograph: its first frame is the photograph
            frames = frames[:1]
    return from_pil([frame for frame in frames if frame.size == frames[0].size])


def from_pil(images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
    """IMAGE [B,H,W,3] and MASK [B,H,W] of PIL images of one size, as `load` gives them."""
    return torch.cat([_pixels(image) for image in images]), torch.cat([_transparency(image) for image in images])


def load_channel(path: Path, channel: str) -> Tensor:
    """MASK [1,H,W] from one channel, "red", "green", "blue" or "alpha" (1 - alpha), of a file's first frame."""
    with open_image(path) as file:
        try:
            upright = ImageOps.exif_transpose(file)
        except UNREADABLE as error:
            raise ValueError(f"{path} is a damaged image ({error}); choose another file") from None
    if channel == "alpha":
        alpha = _eight_bit(upright).convert("RGBA").getchannel("A")
        return 1 - _tensor(alpha)
    return _tensor(_eight_bit(upright).convert("RGBA").getchannel("RGB"[("red", "green", "blue").index(channel)]))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grays, which Pillow would clip, to 8 bits."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image, np.float32) / 257).round().clip(0, 255).astype(np.uint8))


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image, np.float32) / 255)[None]


def _pixels(frame: Image.Image) -> Tensor:
    if frame.mode.startswith("I"):
        gray = np.asarray(frame, np.float32) / 65535
        return torch.from_numpy(gray.clip(0, 1))[None, ..., None].repeat(1, 1, 1, 3)
    return _tensor(frame.convert("RGB"))


def _transparency(frame: Image.Image) -> Tensor:
    if "A" in frame.getbands() or (frame.mode == "P" and "transparency" in frame.info):
        return 1 - _tensor(frame.convert("RGBA").getchannel("A"))
    return torch.zeros(1, 64, 64)


def to_pil(image: Tensor) -> Image.Image:
    """One image [H,W,C] in 0..1 as an 8-bit PIL image; truncated, as ComfyUI does."""
    return Image.fromarray((image.float().cpu().numpy() * 255.0).clip(0, 255).astype(np.uint8))
