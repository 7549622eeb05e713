"""Train the demo checkpoints from random weights, in the phases that the model cards describe.

    python -m sd2_family.training.train autoencoder   # images to latents and back
    python -m sd2_family.training.train base          # text to image, eps objective, with its text encoder
    python -m sd2_family.training.train v             # the base resumed with the v objective
    python -m sd2_family.training.train inpaint       # the base resumed with mask and masked image as input
    python -m sd2_family.training.train depth         # a depth estimator; the base resumed with its depth as input
    python -m sd2_family.training.train unclip        # an image tower; v resumed with its embedding as condition
    python -m sd2_family.training.train upscale       # an autoencoder of factor 4; its latents from a small image

Every phase can be stopped and started again, takes the same steps whenever it is run with the same seed, and keeps
its state in `--folder` (training/runs). `python -m sd2_family.training.export` makes the .safetensors files from it,
and `python -m sd2_family.training.unpack` turns such a file back into a state, to go on from.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from .autoencoder_phase import train_autoencoder
from .depth_phase import train_depth
from .diffusion_phases import train_diffusion
from .trainer import Plan
from .unclip_phase import train_unclip
from .upscale_phase import train_upscale


@dataclass(frozen=True)
class Phase:
    """A function that trains in a folder, and its plan."""

    train: Callable[[Path, Plan], None]
    plan: Plan


PHASES = {
    "autoencoder": Phase(train_autoencoder, Plan(steps=5_000, batch_size=8, learning_rate=2e-3)),
    "base": Phase(partial(train_diffusion, "base"), Plan(steps=3_000, batch_size=32, learning_rate=2e-3)),
    "v": Phase(partial(train_diffusion, "v"), Plan(steps=500, batch_size=32, learning_rate=1e-3)),
    "inpaint": Phase(partial(train_diffusion, "inpaint"), Plan(steps=4_600, batch_size=32, learning_rate=2e-3)),
    "depth": Phase(train_depth, Plan(steps=800, batch_size=32, learning_rate=1e-3)),
    "unclip": Phase(train_unclip, Plan(steps=2_500, batch_size=32, learning_rate=2e-3)),
    "upscale": Phase(train_upscale, Plan(steps=1_600, batch_size=32, learning_rate=2e-3)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=PHASES)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "runs")
    parser.add_argument("--steps", type=int, help="instead of the steps of the plan")
    arguments = parser.parse_args()
    phase = PHASES[arguments.phase]
    phase.train(arguments.folder, replace(phase.plan, steps=arguments.steps or phase.plan.steps))


if __name__ == "__main__":
    main()
