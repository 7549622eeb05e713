"""Write PNG files with their workflow, and read the workflow in an image of any kind."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..pipeline.pil import UNREADABLE, open_image, to_pil

NAMES = frozenset({"prompt", "workflow"})
SUFFIXES = frozenset({".png", ".webp", ".jpg", ".jpeg", ".avif"})
SPACE = codecs.BOM_UTF8 + b" \t\r\n"
STARTS = b"\x89PNG", b"\xff\xd8\xff"  # of PNG and JPEG; WebP has its name at byte 8


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


def image_text(path: Path) -> dict[str, str] | None:
    """Read what an image file says of its making, by name; None if the file is no image.

    PNG files have it in text chunks, ComfyUI's animated ones in "comf" chunks (name, NUL, text), and WebP, JPEG and
    others in EXIF tags as "name:text".
    """
    with path.open("rb") as file:
        start = file.read(12)
    named = path.suffix.lower() in SUFFIXES and not start.lstrip(SPACE).startswith((b"{", b"["))
    if not (start.startswith(STARTS) or start[8:] == b"WEBP" or named):
        return None
    with open_image(path) as image:
        try:
            return _text(image)
        except UNREADABLE as error:
            raise ValueError(f"{path} is a damaged image ({error}); choose another file") from None


def _text(image: Image.Image) -> dict[str, str]:
    text = dict(getattr(image, "text", {}))
    if image.format == "PNG" and not NAMES & text.keys():
        image.load()  # chunks may follow the pixels
        text = {**getattr(image, "text", {}), **_private(getattr(image, "private_chunks", ()))}
    values = [value.partition(":") for value in image.getexif().values() if isinstance(value, str)]
    return {**{name.strip().lower(): rest for name, _, rest in values}, **text}


def _private(chunks: Iterable[tuple[Any, ...]]) -> dict[str, str]:
    pairs = (data.partition(b"\0") for kind, data, *_ in chunks if kind == b"comf")
    return {name.decode("latin-1"): text.decode("latin-1") for name, _, text in pairs}
