"""Read and write image files by ComfyUI's rules, and the text chunks of PNG files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

UNREADABLE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def open_image(path: Path) -> Image.Image:
    """Open an image and read its header, but not its pixels."""
    try:
        return Image.open(path)
    except UNREADABLE as error:
        raise ValueError(f"{path} is not a readable image ({error}); choose another file") from None


def load(path: Path) -> tuple[Tensor, Tensor]:
    """Load IMAGE [B,H,W,3] and MASK [B,H,W], with every frame of an animation and EXIF rotation applied.

    The mask is 1 - alpha, or zeros [1,64,64] if there is no alpha.
    """
    with open_image(path) as image:
        try:
            frames = [ImageOps.exif_transpose(frame) for frame in ImageSequence.Iterator(image)]
        except UNREADABLE as error:
            raise ValueError(f"{path} is a damaged image ({error}); choose another file") from None
        if image.format == "MPO":  # a stereo or burst photo, whose first frame is the photo
            frames = frames[:1]
    frames = [frame for frame in frames if frame.size == frames[0].size]
    return torch.cat([_pixels(frame) for frame in frames]), torch.cat([_transparency(frame) for frame in frames])


def load_channel(path: Path, channel: str) -> Tensor:
    """Load MASK [1,H,W] from channel "red", "green", "blue" or "alpha" (1 - alpha) of a file's first frame."""
    with open_image(path) as image:
        try:
            upright = ImageOps.exif_transpose(image)
        except UNREADABLE as error:
            raise ValueError(f"{path} is a damaged image ({error}); choose another file") from None
    if channel == "alpha":
        alpha = _eight_bit(upright).convert("RGBA").getchannel("A")
        return 1 - _tensor(alpha)
    return _tensor(_eight_bit(upright).convert("RGBA").getchannel("RGB"[("red", "green", "blue").index(channel)]))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grayscale, which Pillow would clip, to 8 bits."""
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
    """Convert one image [H,W,C] in 0..1 to 8 bits, truncating as ComfyUI does."""
    return Image.fromarray((image.float().cpu().numpy() * 255.0).clip(0, 255).astype(np.uint8))


def save_png(path: Path, image: Tensor, text: Mapping[str, str]) -> None:
    """Write one image [H,W,C] with text chunks; the file appears under its name only when complete."""
    chunks = PngInfo()
    for key, value in text.items():
        chunks.add_text(key, value)
    with unfinished(path) as file:
        to_pil(image).save(file, "PNG", pnginfo=chunks, compress_level=4)


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which is renamed to `path` if the block succeeds."""
    file = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield file
        file.replace(path)
    finally:
        file.unlink(missing_ok=True)


def png_text(path: Path) -> dict[str, str]:
    """Read the text chunks of a PNG file."""
    with open_image(path) as image:
        image.load()  # chunks may follow the pixels
        return dict(getattr(image, "text", {}))
