"""Stand-ins for stock nodes that read and write files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from ...backends import folders
from ...pipeline import pil
from .. import image_files
from ..inputs import Json

PREVIEWS = "preview/ComfyUI_temp"
SUFFIXES = (" [input]", " [output]", " [temp]")  # ComfyUI's names for folders, after a file's name

Inputs = dict[str, Any]
Shown = dict[str, Any]


def input_file(name: str) -> Path:
    """Return the path of a file in the input folder; "x.png [output]" and "x.png [temp]" mean outputs and previews."""
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), SUFFIXES[0])
    kind, folder, option = {
        " [input]": ("input", folders.input_dir(), "--input-dir"),
        " [output]": ("output", folders.output_dir(), "--output-dir"),
        " [temp]": ("preview", (folders.output_dir() / PREVIEWS).parent, "--output-dir"),
    }[suffix]
    bare = name.removesuffix(suffix)
    path = folders.inside(folder, bare)
    if not path.is_file():
        raise ValueError(f"image {bare!r} is not in the {kind} folder {folder}; copy it there or use {option}")
    return path


class _ImageFile:
    """Base of LoadImage and LoadImageMask: check the file, and run again when it changes."""

    @classmethod
    def VALIDATE_INPUTS(cls, image: str | None) -> bool:
        if image is None:  # linked: its value is not known yet
            return True
        with pil.open_image(input_file(image)):
            return True

    @classmethod
    def IS_CHANGED(cls, image: str, **_: Json) -> list[int]:
        path = input_file(image)
        return [path.stat().st_mtime_ns, path.stat().st_size]


class LoadImage(_ImageFile):
    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "load_image"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"image": _input_files()}}

    def load_image(self, image: str) -> tuple[Tensor, Tensor]:
        return pil.load(input_file(image))


class LoadImageMask(_ImageFile):
    RETURN_TYPES = ("MASK",)
    FUNCTION = "load_image"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"image": _input_files(), "channel": (["alpha", "red", "green", "blue"],)}}

    def load_image(self, image: str, channel: str) -> tuple[Tensor]:
        return (pil.load_channel(input_file(image), channel),)


def _input_files() -> tuple[list[str], dict[str, bool]]:
    return sorted(path.name for path in folders.input_dir().glob("*") if path.is_file()), {"image_upload": True}


class SaveImage:
    RETURN_TYPES = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {"default": "ComfyUI"})},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix: str | None = None) -> bool:
        if filename_prefix is not None:  # None: linked and not known yet, or PreviewImage
            _target(filename_prefix, width=0, height=0)
        return True

    def save_images(
        self, images: Tensor, filename_prefix: str = "ComfyUI", prompt: Json = None, extra_pnginfo: Json = None
    ) -> Shown:
        """Write [B,H,W,C] as PREFIX_00001_.png and so on after the highest existing number, with the workflow."""
        target = _target(filename_prefix, width=images.shape[2], height=images.shape[1])
        chunks = {"prompt": prompt, **(extra_pnginfo or {})}
        text = {key: json.dumps(value) for key, value in chunks.items() if value is not None}
        target.parent.mkdir(parents=True, exist_ok=True)
        first = next_number(target)
        shown = []
        for index, image in enumerate(images):
            path = target.with_name(f"{target.name.replace('%batch_num%', str(index))}_{first + index:05}_.png")
            image_files.save_png(path, image, text)
            shown.append(output(path))
        return {"ui": {"images": shown}}


class PreviewImage(SaveImage):
    """Save previews in the "preview" folder of the outputs, since there is no canvas to show them."""

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"images": ("IMAGE",)}, "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}}

    def save_images(self, images: Tensor, prompt: Json = None, extra_pnginfo: Json = None) -> Shown:  # type: ignore[override]
        return super().save_images(images, PREVIEWS, prompt, extra_pnginfo)


def _target(prefix: str, *, width: int, height: int) -> Path:
    """Return the path of `prefix` in the output folder with %tokens% replaced, to which numbers are appended."""
    clock = {"year": "%Y", "month": "%m", "day": "%d", "hour": "%H", "minute": "%M", "second": "%S"}
    tokens = {"width": str(width), "height": str(height)}
    tokens |= {token: time.strftime(form) for token, form in clock.items()}
    name = prefix
    for token, value in tokens.items():
        name = name.replace(f"%{token}%", value)
    if not Path(name).name:
        raise ValueError(f"filename_prefix is {prefix!r}; enter the start of a file name, such as ComfyUI")
    return folders.inside(folders.output_dir(), name)


def next_number(target: Path) -> int:
    """Return one more than the highest number of the files named after `target`."""
    start = f"{target.name}_"
    names = (path.name for path in target.parent.iterdir() if path.name.startswith(start))
    numbers = (name.removeprefix(start).split("_")[0] for name in names)
    return max((int(number) for number in numbers if number.isdecimal()), default=0) + 1


def output(path: Path) -> dict[str, str]:
    """Describe a file in the output folder as ComfyUI does."""
    subfolder = Path(os.path.relpath(path.parent, folders.output_dir())).as_posix().removeprefix(".")
    return {"filename": path.name, "subfolder": subfolder, "type": "output"}


class PreviewAny:
    RETURN_TYPES = ()
    FUNCTION = "main"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"source": ("*", {})}}

    def main(self, source: object = None) -> Shown:
        return {"ui": {"text": (source if isinstance(source, str) else _readable(source),)}}


def _readable(source: object) -> str:
    try:
        return json.dumps(source)
    except (TypeError, ValueError):
        return str(source)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "LoadImage": LoadImage,
    "LoadImageMask": LoadImageMask,
    "SaveImage": SaveImage,
    "PreviewImage": PreviewImage,
    "PreviewAny": PreviewAny,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "LoadImage": "Load Image",
    "LoadImageMask": "Load Image (as Mask)",
    "SaveImage": "Save Image",
    "PreviewImage": "Preview Image",
    "PreviewAny": "Preview Any",
}
