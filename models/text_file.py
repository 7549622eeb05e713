"""Load a text encoder from a file of its own."""

from __future__ import annotations

from pathlib import Path

import torch

from .checkpoint import fill, text_tower
from .clip_text import TextTower
from .foreign_files import not_the_part
from .parts import OPENCLIP_LAYERS, TEXT, clip_weights, openclip_weights, text_weights
from .sizes import UnknownKindError, text_spec
from .specs import SPECS
from .weights_file import read

OPEN_CLIP = ("model.transformer.resblocks.", "transformer.resblocks.", f"{TEXT}model.transformer.resblocks.")


def load_text_encoder(path: str | Path) -> TextTower:
    """Load OpenAI's CLIP-L or OpenCLIP's ViT-H from a file of its own, or the text encoder of a checkpoint.

    A deep tower is ViT-H, and so is a shallow one under open_clip's names; the rest are CLIP-L. ValueError where the
    file has no text encoder.
    """
    file = read(path)
    bare = any(key.startswith(OPEN_CLIP[1]) for key in file.tensors)
    prefix = TEXT + "model." if bare else "" if any(key.startswith(TEXT) for key in file.tensors) else TEXT
    text, cut = text_weights({prefix + key: tensor for key, tensor in file.tensors.items()})
    named_by_open_clip = any(key.startswith(OPEN_CLIP) for key in file.tensors)
    try:
        base = SPECS["v2-base" if named_by_open_clip else "v1"].text
        spec = text_spec(text, base, cut=cut)
        if spec.layers >= OPENCLIP_LAYERS - 1:
            spec = text_spec(text, SPECS["v2-base"].text, cut=cut)
    except (KeyError, UnknownKindError) as error:
        raise ValueError(f"{file.name} {not_the_part(file.tensors, 'a text encoder')}") from error
    openclip = spec.tower == "openclip-h"
    with torch.device("meta"):
        tower = text_tower(spec)
    fill(tower, openclip_weights(text, cut=cut) if openclip else clip_weights(text), file.name, TEXT, None)
    return tower
