"""Inpainting trials: unseen scenes, masks that hide their object, and prompts for another one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..pipeline.lama_masks import Mask, binary
from . import dataset
from .random_masks import around_object, hidden_fraction
from .world.scenes import COLORS, KINDS, Item, plain_caption, render

PAIRS = [(color, kind) for color in COLORS for kind in KINDS]
HIDDEN = 0.95  # the fraction of a scene's object that a mask must cover
REFERENCE_SEEDS = 4 * dataset.FIRST_UNSEEN


@dataclass(frozen=True)
class Trial:
    """A scene, a mask that hides its object, and the object to paint there instead."""

    image: NDArray[np.uint8]  # [H, W, 3]
    mask: Mask
    color: str
    kind: str
    background: str

    @property
    def prompt(self) -> str:
        return plain_caption(self.color, self.kind, self.background)


def object_mask(rng: np.random.Generator, item: Item) -> Mask:
    """Draw a mask over an object and a margin."""
    return binary(around_object(rng, dataset.SIZE, item.box))


def random_trials(count: int, pairs: list[tuple[str, str]], first: int) -> list[Trial]:
    """Draw unseen scenes, masks and prompts, from seed `first` on; pairs are used in turn.

    A mask lies where the requested object could be in such a scene (no balloon on the ground) and hides the object
    that was there. Seeds whose scene does not allow both are skipped.
    """
    made, seeds = list[Trial](), itertools.count(first)
    while len(made) < count:
        seed = next(seeds)
        color, kind = pairs[len(made) % len(pairs)]
        scene = render(seed, size=dataset.SIZE, count=1)
        wanted = render(seed, size=dataset.SIZE, items=[(color, kind)], background=scene.background)
        mask = object_mask(np.random.default_rng((seed, 3)), wanted.items[0])
        if scene.items[0].kind != kind and hidden_fraction(mask, [scene.items[0].box]) > HIDDEN:
            made.append(Trial(scene.image, mask, color, kind, scene.background))
    return made


def rendered(trials: list[Trial]) -> list[Trial]:
    """Render the scene that each prompt asks for, to measure the accuracy of the classifier itself."""
    drawn = []
    for i, trial in enumerate(trials):
        scene = render(REFERENCE_SEEDS + i, items=[(trial.color, trial.kind)], background=trial.background)
        mask = object_mask(np.random.default_rng(i), scene.items[0])
        drawn.append(replace(trial, image=scene.image, mask=mask))
    return drawn
