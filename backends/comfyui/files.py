"""Model files and images in ComfyUI's folders.

ComfyUI lists only files in its own folders; this module adds the bundled files and diffusers folders.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import folder_paths
from torch import Tensor

from ...pipeline.pil import to_pil
from .. import folders

PREVIEW_SIDE = 512  # pixels


def list_models(kind: str) -> list[str]:
    """List the names that `resolve_model` finds, sorted, including bundled files and diffusers folders."""
    names = {name for name in folder_paths.get_filename_list(kind) if name.lower().endswith(folders.SUFFIXES)}
    names |= {path.name for path in folders.BUNDLED.glob("*") if path.suffix in folders.SUFFIXES}
    return sorted(names | set(_diffusers_folders(kind)))


def _diffusers_folders(kind: str) -> dict[str, Path]:
    places = folder_paths.get_folder_paths(folders.DIFFUSERS) if kind == "checkpoints" else []
    return folders.diffusers_folders(map(Path, places))


def resolve_model(kind: str, name: str) -> Path:
    """Find the file or folder of a model by a name from `list_models`; the user's own take precedence."""
    found = folder_paths.get_full_path(kind, name) or _diffusers_folders(kind).get(name)
    path = Path(found) if found else folders.inside(folders.BUNDLED, name)
    if not folders.is_model(path):
        places = " or ".join(folder_paths.get_folder_paths(kind))
        raise ValueError(f"{name} is not in {places}; put it there and press R on the canvas")
    return path


def input_dir() -> Path:
    """Return the folder of input images."""
    return Path(folder_paths.get_input_directory())


def show(images: Tensor) -> list[dict[str, str]]:
    """Write small copies of images [B, H, W, 3] into the temporary folder; return them as the canvas shows them."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    shown = []
    for image in images:
        picture = to_pil(image)
        picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        name = f"sd2_{hashlib.sha256(picture.tobytes()).hexdigest()[:16]}.png"
        picture.save(folder / name, compress_level=1)
        shown.append({"filename": name, "subfolder": "", "type": "temp"})
    return shown
