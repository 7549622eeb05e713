"""PIL images and image files to tensors and back, by ComfyUI's rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, ImageSequence, UnidentifiedImageError
from torch import Tensor

from .notices import notice

UNREADABLE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)
CHANNELS = ("red", "green", "blue")
STRAIGHT = {"La": "LA", "RGBa": "RGBA", "P": "RGBA"}  # alpha premultiplied or in the palette -> as a channel
# how Pillow decodes a PNG of other than 8 bits -> its color key, which stays in the file's units, in the pixels'
KEYS: dict[str, Callable[[Any], Any]] = {
    "L;2": lambda key: key * 85,
    "L;4": lambda key: key * 17,
    "RGB;16B": lambda key: tuple(value >> 8 for value in key),
}


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image and read its header, but not its pixels."""
    with ExitStack() as stack:
        try:
            # not by its path: a TIFF that Pillow maps into memory comes out garbled where it is to be turned
            file = stack.enter_context(Image.open(stack.enter_context(path.open("rb"))))
        except UNREADABLE as error:
            raise ValueError(f"{path} is not a readable image ({error}); choose another file") from None
        yield file


def load(path: Path) -> tuple[Tensor, Tensor]:
    """IMAGE [B,H,W,3] and MASK [B,H,W] of a file: every frame of the first one's size, turned upright.

    The mask is 1 - alpha, which may be a color key; zeros [1,64,64] for a file without alpha.
    """
    return from_pil(_frames(path), str(path))


def from_pil(images: Sequence[Image.Image], name: str = "the image") -> tuple[Tensor, Tensor]:
    """IMAGE [B,H,W,3] and MASK [B,H,W] of PIL images of one size, as `load` gives them; `name` is for errors."""
    mask = _transparency(images)
    return _pixels(images, name), torch.zeros(len(images), 64, 64) if mask is None else mask


def load_channel(path: Path, channel: str) -> Tensor:
    """MASK [B,H,W] from one channel, "red", "green", "blue" or "alpha" (1 - alpha), of a file's frames."""
    frames = _frames(path)
    if channel != "alpha":
        return _pixels(frames, str(path))[..., CHANNELS.index(channel)]
    mask = _transparency(frames)
    if mask is None:
        notice(f"{path.name} has no alpha channel, so the mask is empty; choose channel red, green or blue")
        return _opaque(frames[0]).repeat(len(frames), 1, 1)
    return mask


def _frames(path: Path) -> list[Image.Image]:
    with open_image(path) as file:
        decoded = file.tile[0][3] if file.format == "PNG" and file.tile else None
        if isinstance(decoded, str) and decoded in KEYS and "transparency" in file.info:
            file.info["transparency"] = KEYS[decoded](file.info["transparency"])
        try:
            frames = [ImageOps.exif_transpose(frame) for frame in ImageSequence.Iterator(file)]
        except UNREADABLE as error:
            raise ValueError(f"{path} is a damaged image ({error}); choose another file") from None
        if file.format == "MPO":  # a stereo or burst photograph: its first frame is the photograph
            frames = frames[:1]
    same = [frame for frame in frames if frame.size == frames[0].size]
    if len(same) < len(frames):
        width, height = frames[0].size
        notice(
            f"{path.name} has {len(frames)} frames of several sizes; only the {len(same)} of the first one's size, "
            f"{width} x {height}, are used"
        )
    return same


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).float().div_(255)[None]


def _is_deep(frame: Image.Image) -> bool:
    """Whether it holds grays of more than 8 bits, which Pillow would clip to 0..255: I, I;16, I;16B or F."""
    return frame.mode.startswith("I") or frame.mode == "F"


def _pixels(frames: Sequence[Image.Image], name: str) -> Tensor:
    """The colors [B,H,W,3] of frames."""
    return _batch([_color(frame, name) for frame in frames])


def _color(frame: Image.Image, name: str) -> Tensor:
    if _is_deep(frame):
        return _grays(frame, name)[None, ..., None].repeat(1, 1, 1, 3)
    return _tensor((_straight(frame) if frame.has_transparency_data else frame).convert("RGB"))


def _transparency(frames: Sequence[Image.Image]) -> Tensor | None:
    """1 - alpha [B,H,W] of frames; None where none has alpha."""
    if not any(frame.has_transparency_data for frame in frames):
        return None
    return _batch([1 - _alpha(frame) if frame.has_transparency_data else _opaque(frame) for frame in frames])


def _batch(frames: list[Tensor]) -> Tensor:
    """Join tensors [1, ...]; a single one, which may be large, is not copied."""
    return frames[0] if len(frames) == 1 else torch.cat(frames)


def _opaque(frame: Image.Image) -> Tensor:
    return torch.zeros(1, frame.height, frame.width)


def _grays(frame: Image.Image, name: str) -> Tensor:
    """Deep grays [H,W] in 0..1, as floats of 0..1 or whole numbers of 16 bits; ValueError for others."""
    values = np.asarray(frame, np.float32)
    kind, white = ("floats", 1.0) if frame.mode == "F" else ("whole numbers", 65535.0)
    low, high = values.min(), values.max()
    slack = white / 255  # resampling overshoots
    if not (low >= -slack and high <= white + slack):
        raise ValueError(
            f"{name} holds {kind} from {low:g} to {high:g}, but black is 0 and white {white:g}; scale it to that range"
        )
    return torch.from_numpy((values / white).clip(0, 1))


def _alpha(frame: Image.Image) -> Tensor:
    """Alpha [1,H,W] of a channel, a palette or a color key."""
    if _is_deep(frame):
        return torch.from_numpy(np.asarray(frame, np.float32) != frame.info["transparency"]).float()[None]
    return _tensor(_straight(frame).convert("RGBA").getchannel("A"))


def _straight(frame: Image.Image) -> Image.Image:
    return frame.convert(STRAIGHT.get(frame.mode, frame.mode))


def to_pil(image: Tensor) -> Image.Image:
    """One image [H,W,C] in 0..1 as an 8-bit PIL image; truncated, as ComfyUI does."""
    return Image.fromarray((image.float() * 255).clamp_(0, 255).byte().cpu().numpy())
