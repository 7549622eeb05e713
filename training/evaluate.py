"""Measure the inpainting demo on prompts and masks that it never saw: python -m sd2_family.training.evaluate

A small classifier, trained here on rendered scenes only, recognizes object and color inside the mask.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ..pipeline.components import Loaded, load
from . import dataset
from .autoencoder_phase import psnr
from .export import DEMO, FILES
from .generation import repaint
from .image_sheet import inpainting_sheet
from .object_classifier import Classifier, load_classifier, score
from .trials import PAIRS, random_trials, rendered
from .world.scenes import HELD_OUT

GUIDANCE = (1.0, 7.5)
UNSEEN_IMAGES = 200  # for the autoencoder
TRIAL_SEEDS = 3 * dataset.FIRST_UNSEEN, 4 * dataset.FIRST_UNSEEN  # of pairs seen in training, and of the others
AUTOENCODER_SEEDS = 5 * dataset.FIRST_UNSEEN


def report(loaded: Loaded, classifier: Classifier, count: int, sheet: Path | None) -> Iterator[str]:
    """Yield the measurements, a line each."""
    order = [PAIRS[i] for i in np.random.default_rng(5).permutation(len(PAIRS))]
    for n, (name, held_out) in enumerate((("pairs seen in training", False), ("pairs never trained", True))):
        trials = random_trials(count, [pair for pair in order if (pair in HELD_OUT) == held_out], TRIAL_SEEDS[n])
        reference = rendered(trials)
        images = dataset.to_floats(np.stack([trial.image for trial in reference]))
        yield f"{name}, as the renderer draws them: {score(classifier, images, reference)}"
        for scale in GUIDANCE:
            painted = repaint(loaded, trials, scale=scale)
            yield f"{name}, cfg {scale:g}: {score(classifier, painted, trials)}"
        if sheet:
            inpainting_sheet(painted, trials).save(sheet.with_stem(f"{sheet.stem}-{n}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=DEMO / FILES["inpaint"].name)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "runs")
    parser.add_argument("--count", type=int, default=200, help="prompts and masks of each sort")
    parser.add_argument("--sheet", type=Path, help="also write images before and after to this file")
    arguments = parser.parse_args()
    loaded = load(arguments.checkpoint, dtype=torch.float32)
    unseen, _ = dataset.scenes(arguments.folder, UNSEEN_IMAGES, AUTOENCODER_SEEDS)
    sys.stdout.write(f"autoencoder on {len(unseen)} unseen images: {psnr(unseen, loaded.vae):.2f} dB\n")
    for line in report(loaded, load_classifier(arguments.folder), arguments.count, arguments.sheet):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
