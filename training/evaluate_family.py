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

from ..pipeline import depth, upscale
from ..pipeline.components import Loaded, load
from ..pipeline.types import with_options
from ..pipeline.unclip import ImageEmbedding, with_image
from . import dataset
from .dataset import to_bytes, to_floats
from .depth_estimator import correlation
from .export import DEMO, FILES
from .generation import draw_noise, encode_prompts, generate
from .image_sheet import COLUMNS, image_sheet
from .object_classifier import load_classifier, score
from .trials import PAIRS, Trial, object_mask
from .upscale_phase import shrink
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


def measure_depth(loaded: Loaded, folder: Path, count: int, sheet: Path | None) -> Iterator[str]:
    """Compare estimated depth with the renderer's, and the depth of generated images with the depth they follow.

    Each image is generated from the depth and the caption of an unseen scene.
    """
    scenes = [render(seed, size=dataset.SIZE) for seed in range(FIRST, FIRST + count)]
    images = np.stack([scene.image for scene in scenes])
    maps = loaded.depth_model.estimate(to_floats(images))
    truth = torch.from_numpy(np.stack([scene.nearness for scene in scenes]))
    yield f"estimated depth: correlation {correlation(maps, truth).mean():.3f} with the renderer's"
    noise = draw_noise(loaded, count, dataset.SIZE, seed=0)
    options = depth.options(maps[..., None], *noise.shape[-2:])
    positive, negative = (
        with_options(encode_prompts(loaded.clip, prompts), options)
        for prompts in ([scene.caption for scene in scenes], [""])
    )
    generated = generate(loaded, positive, negative, noise, scale=GUIDANCE["depth"])
    followed = correlation(loaded.depth_model.estimate(generated), maps)
    yield f"followed depth: correlation {followed.mean():.3f} of generated images with their depth map"
    if sheet:
        shades = F.interpolate(options["concat_depth"] / 2 + 0.5, size=dataset.SIZE)
        image_sheet([images, to_bytes(shades.movedim(1, -1).expand(-1, -1, -1, 3)), to_bytes(generated)]).save(sheet)


def measure_unclip(loaded: Loaded, folder: Path, count: int, sheet: Path | None) -> Iterator[str]:
    """Classify images, and variations of them generated with empty prompts."""
    trials = single_objects(count)
    images = np.stack([trial.image for trial in trials])
    embeddings = loaded.clip_vision.encode_image(to_floats(images)).image_embeds
    classifier = load_classifier(folder)
    yield f"images: {score(classifier, to_floats(images), trials)}"
    generated = variations(loaded, embeddings, seed=0)
    yield f"variations: {score(classifier, generated, trials)}"
    if sheet:
        more = variations(loaded, embeddings[:COLUMNS], seed=1)
        image_sheet([images, to_bytes(generated), to_bytes(more)]).save(sheet)


def variations(loaded: Loaded, embeddings: Tensor, seed: int) -> Tensor:
    """Generate an image for each embedding [N, dim], one at a time: a conditioning mixes its images into one."""
    empty = encode_prompts(loaded.clip, [""])
    noise = draw_noise(loaded, len(embeddings), dataset.SIZE, seed)
    generated = []
    for embedding, start in zip(embeddings[:, None], noise[:, None], strict=True):
        positive = with_image(empty, ImageEmbedding(embedding), weight=1.0, level=0, seed=seed)
        generated.append(generate(loaded, positive, empty, start, scale=GUIDANCE["unclip"]))
    return torch.cat(generated)


def measure_upscale(loaded: Loaded, folder: Path, count: int, sheet: Path | None) -> Iterator[str]:
    """Compute the PSNR of enlarged images, and of the autoencoder alone, which is the upper limit."""
    scenes = [render(seed, size=dataset.LARGE) for seed in range(FIRST, FIRST + count)]
    large = to_floats(np.stack([scene.image for scene in scenes]))
    small = shrink(large.movedim(-1, 1))
    nearest, bicubic = (
        F.interpolate(small, size=large.shape[1:3], mode=mode).clamp(0, 1).movedim(1, -1)
        for mode in ("nearest", "bicubic")
    )
    # one at a time, for memory
    upscaled = torch.cat([enlarge(loaded, small[i : i + 1], scene.caption, seed=i) for i, scene in enumerate(scenes)])
    coded = loaded.vae.decode(loaded.vae.encode(large))
    for name, found in (("bicubic", bicubic), ("upscaled", upscaled), ("autoencoder alone", coded)):
        error = (found - large).square().mean((1, 2, 3))
        yield f"{name}: {10 * torch.log10(1 / error).mean():.2f} dB"
    if sheet:
        quarter = dataset.LARGE // 4
        middle = slice(quarter, 3 * quarter)
        image_sheet([to_bytes(row[:, middle, middle]) for row in (nearest, bicubic, upscaled, large)]).save(sheet)


def enlarge(loaded: Loaded, small: Tensor, caption: str, seed: int) -> Tensor:
    """Noise an image [1, 3, h, w] in 0..1 a little and enlarge it: [1, 4h, 4w, 3]."""
    options = upscale.options(small.movedim(1, -1), NOISE_LEVEL, seed + 1)
    prompt = with_options(encode_prompts(loaded.clip, [caption]), options)
    noise = draw_noise(loaded, 1, loaded.model.spec.autoencoder.factor * small.shape[-1], seed)
    return generate(loaded, prompt, prompt, noise, scale=1)  # no guidance: the negative side is not computed


MEASURES = {"depth": measure_depth, "unclip": measure_unclip, "upscale": measure_upscale}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=MEASURES)
    parser.add_argument("--checkpoint", type=Path, help="instead of the bundled one")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "runs", help="of the classifier")
    parser.add_argument("--count", type=int, help="scenes, instead of the usual number")
    parser.add_argument("--sheet", type=Path, help="also draw some generated images to this file")
    arguments = parser.parse_args()
    loaded = load(arguments.checkpoint or DEMO / FILES[arguments.phase].name, dtype=torch.float32)
    count = arguments.count or COUNT[arguments.phase]
    for line in MEASURES[arguments.phase](loaded, arguments.folder, count, arguments.sheet):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
