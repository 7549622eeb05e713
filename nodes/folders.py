"""Where files are without ComfyUI: a models folder laid out like ComfyUI's, and the folders of pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..models.files import INDEX

SUFFIXES = (".safetensors", ".ckpt")
DIFFUSERS = "diffusers"  # ComfyUI's kind for folders that diffusers saved: checkpoints of several files
VARIABLE = "SD2_MODELS_DIR"
BUNDLED = Path(__file__).parent.parent / "models" / "demo"


@dataclass
class Folders:
    """The folders chosen for this process; None leaves the default."""

    models: Path | None = None
    input: Path | None = None
    output: Path | None = None


_chosen = Folders()


def set_dirs(*, models: Path | None = None, input: Path | None = None, output: Path | None = None) -> None:
    """Choose folders; those left out keep what they were."""
    _chosen.models = models or _chosen.models
    _chosen.input = input or _chosen.input
    _chosen.output = output or _chosen.output


def input_dir() -> Path:
    """Where pictures are read from; the working directory unless chosen."""
    return _chosen.input or Path.cwd()


def output_dir() -> Path:
    """Where pictures are written to; `output` in the working directory unless chosen."""
    return _chosen.output or Path.cwd() / "output"


def inside(folder: Path, name: str) -> Path:
    """folder / name; ValueError where the name leads out of the folder."""
    folder = folder.absolute()
    path = Path(os.path.normpath(folder / name))  # not resolve(): links inside the folder are the user's own choice
    if not path.is_relative_to(os.path.normpath(folder)):
        raise ValueError(f"{name!r} leads out of {folder}; name a file inside it")
    return path


def model_dirs(kind: str) -> list[Path]:
    """Folders searched for models of a kind ("checkpoints", ...), in this order; the bundled models come last."""
    models = _chosen.models or os.environ.get(VARIABLE)
    return [Path(models) / kind, BUNDLED] if models else [BUNDLED]


def list_models(kind: str) -> list[str]:
    """The files, and for checkpoints the folders, that `resolve_model` finds by name, sorted."""
    names = {
        path.relative_to(folder).as_posix()
        for folder in model_dirs(kind)
        for path in folder.rglob("*")
        if path.suffix in SUFFIXES and path.is_file()
    }
    return sorted(names | set(diffusers_folders(model_dirs(DIFFUSERS))) if kind == "checkpoints" else names)


def diffusers_folders(places: Iterable[Path]) -> dict[str, Path]:
    """The folders in these places that diffusers saved, by their path there; the first place comes first."""
    found: dict[str, Path] = {}
    for place in places:
        for root, below, files in os.walk(place, followlinks=True):
            if INDEX in files:
                below.clear()  # the parts are no models of their own
                found.setdefault(Path(root).relative_to(place).as_posix(), Path(root))
    return found


def is_model(path: Path) -> bool:
    """Whether a path leads to a file, or to a folder that diffusers saved."""
    return path.is_file() or (path / INDEX).is_file()


def resolve_model(kind: str, name: str) -> Path:
    """The file or folder of a model, by a name from `list_models` or by an absolute path."""
    places = model_dirs(kind)
    if kind == "checkpoints":
        places = places[:-1] + model_dirs(DIFFUSERS)  # both end with the bundled ones
    candidates = [Path(name)] if Path(name).is_absolute() else [inside(folder, name) for folder in places]
    for path in candidates:
        if is_model(path):
            return path
    raise ValueError(
        f"{Path(name).name} is not in {' or '.join(str(path.parent) for path in candidates)}; put it there, or choose "
        f"another models folder with --models-dir or {VARIABLE}"
    )
