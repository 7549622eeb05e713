"""Measure the demo's depth, unCLIP and x4 checkpoints on scenes that they never saw, and draw their outputs.

python -m sd2_family.training.evaluate_family depth --sheet depth.png    # accuracy of depth, and of following it
python -m sd2_family.training.evaluate_family unclip --sheet unclip.png  # a classifier on variations
python -m sd2_family.training.evaluate_family upscale --sheet x4.png     # PSNR against bicubic enlargement
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.checkpoint import Checkpoint, load_checkpoint
from . import dataset
from .dataset import to_bytes, to_tensor
from .depth_estimator import correlation, estimate
from .depth_phase import depth_channel
from .export import DEMO, FILES
from .generation import generate
from .image_sheet import COLUMNS, image_sheet
from .image_tower import embed
from .object_classifier import load_classifier, score
from .trainer import device
from .trials import PAIRS, Trial, object_mask
from .upscale_phase import noised, shrink
from .world.scenes import BACKGROUNDS, HELD_OUT, render

FIRST = 6 * dataset.FIRST_UNSEEN  # seeds from here on
GUIDANCE = {"depth": 7.5, "unclip": 6.0}
NOISE_LEVEL = 20  # of the upscaler's small image, the default of the node
COUNT = {"depth": 64, "unclip": 200, "upscale": 8}  # scenes; the large ones take long


def single_objects(count: int) -> list[Trial]:
    """Draw unseen scenes of one object each, of pairs seen in training."""
    pairs, rng = [pair for pair in PAIRS if pair not in HELD_OUT], np.random.default_rng(7)
    trials = []
    for seed in range(FIRST, FIRST + count):
        color, kind = pairs[rng.integers(len(pairs))]
        background = str(rng.choice(BACKGROUNDS))
        scene = render(seed, size=dataset.SIZE, items=[(color, kind)], background=background)
        trials.append(Trial(scene.image, object_mask(rng, scene.items[0]), color, kind, background))
    return trials


def measure_depth(model: Checkpoint, folder: Path, count: int, sheet: Path | None) -> Iterator[str]:
    """Compare estimated depth with the renderer's, and the depth of generated images with the depth they follow.

    Each image is generated from the depth and the caption of an unseen scene.
    """
    if model.depth is None:
        raise ValueError(f"a checkpoint of kind {model.kind} has no depth estimator; measure the depth model")
    scenes = [render(seed, size=dataset.SIZE) for seed in range(FIRST, FIRST + count)]
    images = np.stack([scene.image for scene in scenes])
    depth = estimate(model.depth, images)
    truth = torch.from_numpy(np.stack([scene.nearness for scene in scenes]))
    yield f"estimated depth: correlation {correlation(depth, truth).mean():.3f} with the renderer's"
    side = dataset.SIZE // model.spec.autoencoder.factor
    channel = depth_channel(depth, side)
    captions = [scene.caption for scene in scenes]
    generated = generate(model, captions, side, scale=GUIDANCE["depth"], concat=channel)
    followed = correlation(estimate(model.depth, to_bytes(generated)), depth)
    yield f"followed depth: correlation {followed.mean():.3f} of generated images with their depth map"
    if sheet:
        shades = F.interpolate(channel, size=dataset.SIZE).expand(-1, 3, -1, -1)
        image_sheet([images, to_bytes(shades), to_bytes(generated)]).save(sheet)


def measure_unclip(model: Checkpoint, folder: Path, count: int, sheet: Path | None) -> Iterator[str]:
    """Classify images, and variations of them generated with empty prompts."""
    if model.image is None or model.noise_augmentation is None:
        raise ValueError(f"a checkpoint of kind {model.kind} has no image encoder; measure the unCLIP model")
    trials, classifier = single_objects(count), load_classifier(folder)
    images = np.stack([trial.image for trial in trials])
    yield f"images: {score(classifier, to_tensor(images), trials)}"
    e = embed(model.image, images)
    y = model.noise_augmentation.to("cpu")(e, torch.zeros(count, dtype=torch.int64), torch.zeros_like(e))
    generated = variations(model, y, seed=0)
    yield f"variations: {score(classifier, generated, trials)}"
    if sheet:
        more = variations(model, y[:COLUMNS], seed=1)
        image_sheet([images, to_bytes(generated), to_bytes(more)]).save(sheet)


def variations(model: Checkpoint, y: Tensor, seed: int) -> Tensor:
    """Generate an image for each class condition y [N, 2 dim]: [N, 3, H, W] in -1..1."""
    side = dataset.SIZE // model.spec.autoencoder.factor
    conditions = y, torch.zeros_like(y)
    return generate(model, [""] * len(y), side, scale=GUIDANCE["unclip"], seed=seed, y=conditions)


def measure_upscale(model: Checkpoint, folder: Path, count: int, sheet: Path | None) -> Iterator[str]:
    """Compute the PSNR of enlarged images, and of the autoencoder alone, which is the upper limit."""
    scenes = [render(seed, size=dataset.LARGE) for seed in range(FIRST, FIRST + count)]
    large = to_tensor(np.stack([scene.image for scene in scenes]))
    bicubic = F.interpolate(shrink(large), size=large.shape[-2:], mode="bicubic").clamp(-1, 1)
    # one at a time, for memory
    upscaled = torch.cat([upscale(model, large[i : i + 1], scene.caption, seed=i) for i, scene in enumerate(scenes)])
    coded = torch.cat([encode_and_decode(model, large[i : i + 1]) for i in range(count)])
    for name, found in (("bicubic", bicubic), ("upscaled", upscaled), ("autoencoder alone", coded)):
        error = (found - large).square().mean((1, 2, 3))
        yield f"{name}: {10 * torch.log10(4 / error).mean():.2f} dB"
    if sheet:
        nearest, quarter = F.interpolate(shrink(large), size=large.shape[-2:]), dataset.LARGE // 4
        middle = slice(quarter, 3 * quarter)
        image_sheet([to_bytes(row[:, :, middle, middle]) for row in (nearest, bicubic, upscaled, large)]).save(sheet)


def upscale(model: Checkpoint, large: Tensor, caption: str, seed: int) -> Tensor:
    """Shrink an image [1, 3, 4h, 4w], noise it a little and enlarge it again."""
    level = torch.tensor([NOISE_LEVEL])
    small = noised(shrink(large), level, torch.Generator().manual_seed(seed + 1))
    return generate(model, [caption], small.shape[-1], scale=1, seed=seed, concat=small, y=(level, level))


@torch.inference_mode()
def encode_and_decode(model: Checkpoint, images: Tensor) -> Tensor:
    return model.autoencoder.decode(model.autoencoder.encode(images.to(device()))).cpu().clamp(-1, 1)


MEASURES = {"depth": measure_depth, "unclip": measure_unclip, "upscale": measure_upscale}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=MEASURES)
    parser.add_argument("--checkpoint", type=Path, help="instead of the bundled one")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "runs", help="of the classifier")
    parser.add_argument("--count", type=int, help="scenes, instead of the usual number")
    parser.add_argument("--sheet", type=Path, help="also draw some generated images to this file")
    arguments = parser.parse_args()
    model = load_checkpoint(arguments.checkpoint or DEMO / FILES[arguments.phase].name, dtype=torch.float32)
    for part in (model.unet, model.text, model.autoencoder, model.image, model.depth):
        if part is not None:
            part.to(device(), torch.float32)
    count = arguments.count or COUNT[arguments.phase]
    for line in MEASURES[arguments.phase](model, arguments.folder, count, arguments.sheet):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
