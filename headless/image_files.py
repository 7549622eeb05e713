"""Picture files to and from tensors, by ComfyUI's rules, and the text that PNG files carry."""

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


def open_picture(path: Path) -> Image.Image:
    """The picture at `path`, header read, pixels not yet."""
    try:
        return Image.open(path)
    except UNREADABLE as error:
        raise ValueError(f"{path} is not a readable picture: {error}") from None


def load(path: Path) -> tuple[Tensor, Tensor]:
    """IMAGE [B,H,W,3] and MASK [B,H,W] of a file: every frame of an animation, turned upright.

    The mask is 1 - alpha; zeros [1,64,64] where there is no alpha.
    """
    with open_picture(path) as picture:
        try:
            frames = [ImageOps.exif_transpose(frame) for frame in ImageSequence.Iterator(picture)]
        except UNREADABLE as error:
            raise ValueError(f"{path} is a damaged picture: {error}") from None
        if picture.format == "MPO":  # a stereo or burst photograph: its first picture is the photograph
            frames = frames[:1]
    frames = [frame for frame in frames if frame.size == frames[0].size]
    return torch.cat([_pixels(frame) for frame in frames]), torch.cat([_transparency(frame) for frame in frames])


def load_channel(path: Path, channel: str) -> Tensor:
    """MASK [1,H,W] from one channel, "red", "green", "blue" or "alpha" (1 - alpha), of a file's first frame."""
    with open_picture(path) as picture:
        try:
            upright = ImageOps.exif_transpose(picture)
        except UNREADABLE as error:
            raise ValueError(f"{path} is a damaged picture: {error}") from None
    if channel == "alpha":
        alpha = _eight_bit(upright).convert("RGBA").getchannel("A")
        return 1 - _tensor(alpha)
    return _tensor(_eight_bit(upright).convert("RGBA").getchannel("RGB"[("red", "green", "blue").index(channel)]))


def _eight_bit(picture: Image.Image) -> Image.Image:
    """16-bit greys, which Pillow would clip, scaled to 8 bits."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture, np.float32) / 257).round().clip(0, 255).astype(np.uint8))


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture, np.float32) / 255)[None]


def _pixels(frame: Image.Image) -> Tensor:
    if frame.mode.startswith("I"):
        grey = np.asarray(frame, np.float32) / 65535
        return torch.from_numpy(grey.clip(0, 1))[None, ..., None].repeat(1, 1, 1, 3)
    return _tensor(frame.convert("RGB"))


def _transparency(frame: Image.Image) -> Tensor:
    if "A" in frame.getbands() or (frame.mode == "P" and "transparency" in frame.info):
        return 1 - _tensor(frame.convert("RGBA").getchannel("A"))
    return torch.zeros(1, 64, 64)


def to_picture(image: Tensor) -> Image.Image:
    """8-bit picture of one image [H,W,C], 0..1; truncated, as ComfyUI writes it."""
    return Image.fromarray((image.float().cpu().numpy() * 255.0).clip(0, 255).astype(np.uint8))


def save_png(path: Path, image: Tensor, text: Mapping[str, str]) -> None:
    """Write one image [H,W,C] with its text chunks, under another name until it is whole."""
    chunks = PngInfo()
    for key, value in text.items():
        chunks.add_text(key, value)
    with unfinished(path) as file:
        to_picture(image).save(file, "PNG", pnginfo=chunks, compress_level=4)


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Another name to write to, which becomes `path` when the block ends without an error."""
    file = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield file
        file.replace(path)
    finally:
        file.unlink(missing_ok=True)


def png_text(path: Path) -> dict[str, str]:
    """The text chunks of a PNG file."""
    with open_picture(path) as picture:
        picture.load()  # chunks may follow the pixels
        return dict(getattr(picture, "text", {}))
