"""Textual inversion: learned vectors that stand in a prompt for a word (Gal et al. 2022, arXiv:2208.01618).

File formats: {"string_to_param": {"*": vectors}} pickled by AUTOMATIC1111's interface and by the authors, a dictionary
with one entry per token from diffusers (.bin), and .safetensors with one entry, or with one for each text encoder of
SDXL.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .specs import TextSpec
from .weights_file import read

SUFFIXES = (".safetensors", ".pt", ".bin")
_OWN_KEYS = {"clip-l": "clip_l", "openclip-h": "clip_h"}  # in a file for several text encoders


@dataclass(frozen=True)
class Embeddings:
    """The embeddings that the prompts of one text encoder can use."""

    folders: tuple[Path, ...]
    spec: TextSpec

    def vectors(self, name: str) -> Tensor | None:
        """Return the vectors [N, width] of an embedding by its file's name; None if there is none.

        A warning names an embedding for another text encoder, whose vectors [0, width] leave no trace in the prompt.
        Raises ValueError if the file cannot be read.
        """
        path = self.find(name)
        if path is None:
            return None
        found = _vectors(path, _OWN_KEYS[self.spec.tower])
        width = found.shape[-1]
        if width != self.spec.width:
            warn(
                f"embedding {path.name} is left out of the prompt: its vectors have {width} numbers, and this text "
                f"encoder takes {self.spec.width}; choose an embedding made for the same Stable Diffusion version"
            )
            return torch.zeros(0, self.spec.width)
        return found.reshape(-1, width)

    def find(self, name: str) -> Path | None:
        """Find a file in the folders and the folders in them, with its suffix or without."""
        relative = Path(os.path.normpath(name.replace("\\", "/")))
        if not name or relative.is_absolute() or ".." in relative.parts:
            return None
        for folder in self._all_folders():
            for suffix in ("", *SUFFIXES):
                path = folder / f"{relative}{suffix}"
                if path.is_file():
                    return path
        return None

    def _all_folders(self) -> Iterator[Path]:
        for folder in self.folders:
            for root, below, _ in os.walk(folder, followlinks=True):
                below.sort()
                yield Path(root)

    def missing(self, name: str) -> None:
        """Warn that a prompt names an embedding that is not there."""
        places = " or ".join(map(str, self.folders))
        where = f"is not in {places}" if places else "cannot be looked up, as no models folder is set"
        warn(
            f"embedding {name!r} {where}; the prompt is encoded without it (its file belongs in the embeddings folder "
            "of the models folder)"
        )


def warn(sentence: str) -> None:
    logging.getLogger("sd2_family").warning(sentence)


def _vectors(path: Path, own_key: str) -> Tensor:
    """Return the vectors [N, width] or [width] in a file."""
    content = _content(path)
    table = content.get("string_to_param", content)
    if isinstance(table, nn.Module):  # a ParameterDict, as the authors' code saves it
        table = dict(table.named_parameters())
    entries = table if isinstance(table, Mapping) else {}
    tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor) and value.ndim}
    if not tensors:
        raise ValueError(f"{path.name} has no vectors of an embedding; choose another file or download it again")
    found = tensors.get(own_key, next(iter(tensors.values())))
    return found.detach().float()


def _content(path: Path) -> Mapping[str, object]:
    """Read a file without executing code in it."""
    try:
        with torch.serialization.safe_globals([nn.ParameterDict]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # safetensors, or a file that `read` refuses in words
        return dict(read(path).tensors)
    return content if isinstance(content, Mapping) else {}
