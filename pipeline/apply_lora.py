"""Apply LoRA files to the objects on the wires outside ComfyUI."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .components import CLIP, Model, NoTextEncoder

TextEncoder = CLIP | NoTextEncoder | None


def apply_lora(
    path: Path, model: Model, clip: TextEncoder, strength_model: float, strength_clip: float
) -> tuple[Model, TextEncoder]:
    """Return a model and a text encoder with the changes of a file at these strengths, after those they have.

    The ones given stay as they are. ValueError where the file is not a LoRA, or is for another model.
    """
    from ..models import lora

    tower = clip.tower if isinstance(clip, CLIP) else None
    changes = lora.fit(
        lora.read(path), model.name, model.unet, tower, unet_strength=strength_model, text_strength=strength_clip
    )
    changed = replace(model, changes=(*model.changes, *changes.unet))
    return changed, replace(clip, changes=(*clip.changes, *changes.text)) if isinstance(clip, CLIP) else clip
