"""Write PNG files with their workflow, and read it back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..pipeline.pil import open_image, to_pil


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
    with open_image(path) as file:
        file.load()  # chunks may follow the pixels
        return dict(getattr(file, "text", {}))
