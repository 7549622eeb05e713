"""Model and image folders outside ComfyUI; the models folder has the layout of ComfyUI's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..models.weights_file import INDEX

SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl")  # ComfyUI's, in any case
DIFFUSERS = "diffusers"  # ComfyUI's name for checkpoints in diffusers format, each a folder
VARIABLE = "SD2_MODELS_DIR"
OLDER_NAMES = {"text_encoders": "clip", "diffusion_models": "unet"}  # ComfyUI's, of folders that are still searched
BUNDLED = Path(__file__).parent.parent / "models" / "demo"


@dataclass(frozen=True)
class Folders:
    """The folders of a run; None selects the default."""

    models: Path | None = None
    input: Path | None = None
    output: Path | None = None


_chosen = Folders()


@contextmanager
def using(folders: Folders) -> Iterator[None]:
    """Use these folders while the block runs."""
    global _chosen
    before, _chosen = _chosen, folders
    try:
        yield
    finally:
        _chosen = before


def input_dir() -> Path:
    """Return the folder of input images, by default the working directory."""
    return _chosen.input or Path.cwd()


def output_dir() -> Path:
    """Return the folder of output images, by default `output` in the working directory."""
    return _chosen.output or Path.cwd() / "output"


def inside(folder: Path, name: str) -> Path:
    """Join folder and name; raise ValueError if the result is outside the folder."""
    folder = folder.absolute()
    path = Path(os.path.normpath(folder / name))  # not resolve(): symbolic links inside the folder are allowed
    if not path.is_relative_to(os.path.normpath(folder)):
        raise ValueError(f"{name!r} is outside {folder}; choose a file inside it")
    return path


def models_dir() -> Path | None:
    """Return the models folder; None if only the bundled models are used."""
    models = _chosen.models or os.environ.get(VARIABLE)
    return Path(models) if models else None


def model_dirs(kind: str) -> list[Path]:
    """Return the folders to search for models of a kind ("checkpoints", ...), the bundled models last."""
    models = models_dir()
    names = (kind, OLDER_NAMES[kind]) if kind in OLDER_NAMES else (kind,)
    own = [models / name for name in names] if models else []
    return [*own, BUNDLED] if kind in ("checkpoints", DIFFUSERS) else own


def list_models(kind: str) -> list[str]:
    """List the files, and for checkpoints the folders, that `resolve_model` finds by name, sorted."""
    names = {
        path.relative_to(folder).as_posix()
        for folder in model_dirs(kind)
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    }
    return sorted(names | set(diffusers_folders(model_dirs(DIFFUSERS))) if kind == "checkpoints" else names)


def diffusers_folders(places: Iterable[Path]) -> dict[str, Path]:
    """Find the model folders in diffusers format, by relative path; earlier places take precedence."""
    found: dict[str, Path] = {}
    for place in places:
        for root, below, files in os.walk(place, followlinks=True):
            if INDEX in files:
                below.clear()  # its parts are not separate models
                found.setdefault(Path(root).relative_to(place).as_posix(), Path(root))
    return found


def is_model(path: Path) -> bool:
    """Whether a path is a file or a model folder in diffusers format."""
    return path.is_file() or (path / INDEX).is_file()


def resolve_model(kind: str, name: str) -> Path:
    """Find the file or folder of a model by a name from `list_models` or an absolute path."""
    places = model_dirs(kind)
    if kind == "checkpoints":
        places = places[:-1] + model_dirs(DIFFUSERS)  # both end with the bundled ones
    name = name.replace("\\", "/")  # in workflows from Windows
    candidates = [Path(name)] if Path(name).is_absolute() else [inside(folder, name) for folder in places]
    for path in candidates:
        if is_model(path):
            return path
    if not candidates:
        raise ValueError(f"{name} is looked up in a models folder; choose one with --models-dir or {VARIABLE}")
    raise ValueError(
        f"{Path(name).name} is not in {' or '.join(str(path.parent) for path in candidates)}; put it there, or choose "
        f"another models folder with --models-dir or {VARIABLE}"
    )
