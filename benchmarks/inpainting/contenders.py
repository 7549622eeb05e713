"""Who repaints the cases: the Python entry of this pack with its defaults and with other settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypedDict

import numpy as np
from PIL import Image
from typing_extensions import Unpack

from ...pipeline.components import load
from ...pipeline.stable_diffusion import StableDiffusion
from ...training.export import DEMO, FILES
from .cases import Case, Pixels, is_soft

Paint = Callable[[Case], Pixels]
SEEDS = 1000


class Settings(TypedDict, total=False):
    """Keyword arguments of `StableDiffusion.inpaint` that differ from its defaults."""

    cfg: float
    blend: str
    blur: int
    color_match: bool
    context: float
    inner_steps: int
    denoise: float
    threshold: float


def ours(kind: str = "inpaint", **settings: Unpack[Settings]) -> Paint:
    """Repaint by the Python entry, on the demo checkpoint of a kind."""
    model = StableDiffusion(load(DEMO / FILES[kind].name))

    def paint(case: Case) -> Pixels:
        image, mask = Image.fromarray(case.image), Image.fromarray((case.mask * 255).astype(np.uint8))
        given: Settings = {"denoise": case.denoise, "threshold": 0.0 if is_soft(case) else 0.5, **settings}
        return np.asarray(model.inpaint(image, mask, case.prompt, seed=case.seed % SEEDS, **given).image)

    return paint


CONTENDERS: dict[str, Callable[[], Paint]] = {
    "ours": ours,
    "ours, crop": partial(ours, context=1.2),
    "ours, crop 1.5": partial(ours, context=1.5),
    "ours, cfg 2": partial(ours, cfg=2.0),
    "ours, cfg 7.5": partial(ours, cfg=7.5),
    "ours, blend none": partial(ours, blend="none", color_match=True),
    "ours, blend feather 8": partial(ours, blend="feather", blur=8, color_match=True),
    "ours, base, noise mask": partial(ours, "base", inner_steps=0),
    "ours, base, inner steps": partial(ours, "base"),
}
