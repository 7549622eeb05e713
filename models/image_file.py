"""Load CLIP's image encoder from a file of its own."""

from __future__ import annotations

from pathlib import Path

import torch

from .checkpoint import fill
from .clip_image import ImageTower
from .foreign_files import not_the_part
from .parts import EMBEDDER, State, image_weights
from .sizes import UnknownKindError, image_spec
from .specs import VIT_H, VIT_L, ImageSpec
from .weights_file import read

PREFIX = f"{EMBEDDER}."
ADVICE = "choose CLIP's ViT-H/14 or ViT-L/14"


def load_image_encoder(path: str | Path) -> ImageTower:
    """Load OpenCLIP's ViT-H/14 or OpenAI's ViT-L/14 from a file of its own, or the image encoder of a checkpoint.

    The names are open_clip's (`visual.*`) or transformers' (`vision_model.*`). ValueError where the file has no image
    encoder, or one of another family.
    """
    file = read(path)
    state = image_weights({key.removeprefix(PREFIX): tensor for key, tensor in file.tensors.items()})
    if "visual.conv1.weight" not in state:
        raise ValueError(f"{file.name} {not_the_part(file.tensors, 'an image encoder')}")
    try:
        spec = _spec(state)
    except KeyError as error:
        raise ValueError(f"{file.name} has an image encoder without {error.args[0]}; {ADVICE}") from error
    except UnknownKindError as error:
        raise ValueError(f"{file.name} {error}; {ADVICE}") from error
    with torch.device("meta"):
        tower = ImageTower(spec)
    fill(tower, state, file.name, PREFIX, None)
    return tower


def _spec(state: State) -> ImageSpec:
    width = state["visual.conv1.weight"].shape[0]
    layers = len({key.split(".")[3] for key in state if key.startswith("visual.transformer.resblocks.")})
    # ComfyUI decides by depth: 31 layers or more are OpenCLIP's (GELU, heads of 80), 23 or more OpenAI's (QuickGELU,
    # heads of 64). Shallower towers, which it does not load, are OpenCLIP's if 80 divides the width and 64 does not.
    only_80 = width % VIT_H.head_width == 0 and width % VIT_L.head_width != 0
    base = VIT_H if layers > 30 or (layers < 23 and only_80) else VIT_L
    return image_spec(state, base, embed_dim=state["visual.proj"].shape[1])
