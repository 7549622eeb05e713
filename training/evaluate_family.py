"""Measure the demo's depth, unCLIP and x4 checkpoints on scenes that they never saw, and draw what they make of them.

python -m sd2_family.training.evaluate_family depth --sheet depth.png    # how well depth is found, and obeyed
python -m sd2_family.training.evaluate_family unclip --sheet unclip.png  # what a classifier sees in variations
python -m sd2_family.training.evaluate_family upscale --sheet x4.png     # PSNR against bicubic enlargement
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..models.checkpoint import Checkpoint, load_checkpoint
from . import dataset as data
from . import depth_phase as depth
from . import unclip_phase as unclip
from . import upscale_phase as upscale
from .evaluate import PAIRS, Trial, classifier, judge, over, sample
from .export import DEMO, FILES
from .world.scenes import BACKGROUNDS, HELD_OUT, render
from .trainer import device

FIRST = 6 * data.UNSEEN  # seeds from here on
GUIDANCE = {"depth": 7.5, "unclip": 6.0}
LEVEL = 20  # of the noise on the upscaler's small picture, the node's default
COUNT = {"depth": 64, "unclip": 200, "upscale": 8}  # scenes; the large ones take long
COLUMNS = 8  # of a sheet


def shown(count: int) -> list[Trial]:
    """Unseen scenes of one object each, of pairs seen in training."""
    pairs, rng = [pair for pair in PAIRS if pair not in HELD_OUT], np.random.default_rng(7)
    found = []
    for seed in range(FIRST, FIRST + count):
        colour, kind = pairs[rng.integers(len(pairs))]
        background = str(rng.choice(BACKGROUNDS))
        scene = render(seed, size=data.SIZE, items=[(colour, kind)], background=background)
        found.append(Trial(scene.image, over(rng, scene.items[0]), colour, kind, background))
    return found


def measure_depth(model: Checkpoint, folder: Path, count: int, sheet: Path | None) -> Iterator[str]:
    """The estimator's depth against the renderer's, and the depth of generated pictures against what they were given.

    Each is generated from the depth and the words of an unseen scene.
    """
    scenes = [render(seed, size=data.SIZE) for seed in range(FIRST, FIRST + count)]
    pictures = np.stack([scene.image for scene in scenes])
    found = depth.estimate(model.depth, pictures)
    truth = torch.from_numpy(np.stack([scene.nearness for scene in scenes]))
    yield f"depth found: correlation {depth.correlation(found, truth).mean():.3f} with the renderer's"
    side = data.SIZE // model.spec.autoencoder.factor
    channel = depth.depth_channel(found, side)
    made = sample(model, [scene.caption for scene in scenes], side, scale=GUIDANCE["depth"], concat=channel)
    obeyed = depth.correlation(depth.estimate(model.depth, to_bytes(made)), found)
    yield f"depth obeyed: correlation {obeyed.mean():.3f} of what is made with what was given"
    if sheet:
        shades = F.interpolate(channel, size=data.SIZE).expand(-1, 3, -1, -1)
        draw(sheet, [data.to_tensor(pictures), shades, made])


def measure_unclip(model: Checkpoint, folder: Path, count: int, sheet: Path | None) -> Iterator[str]:
    """What a classifier sees in pictures, and in variations of them made without a word."""
    cases, eye = shown(count), classifier(folder)
    pictures = np.stack([case.picture for case in cases])
    yield f"the pictures: {judge(eye, data.to_tensor(pictures), cases)}"
    e = unclip.embed(model.image, pictures)
    y = model.noise_augmentation.to("cpu")(e, torch.zeros(count, dtype=torch.int64), torch.zeros_like(e))
    side = data.SIZE // model.spec.autoencoder.factor

    def varied(seed: int, y: Tensor) -> Tensor:
        nothing = torch.zeros_like(y)
        return sample(model, [""] * len(y), side, scale=GUIDANCE["unclip"], seed=seed, y=(y, nothing))

    made = varied(0, y)
    yield f"variations of them: {judge(eye, made, cases)}"
    if sheet:
        draw(sheet, [data.to_tensor(pictures), made, varied(1, y[:COLUMNS])])


def measure_upscale(model: Checkpoint, folder: Path, count: int, sheet: Path | None) -> Iterator[str]:
    """PSNR of enlarged pictures, one at a time; the autoencoder's own says how much could be reached."""
    scenes = [render(seed, size=data.LARGE) for seed in range(FIRST, FIRST + count)]
    large = data.to_tensor(np.stack([scene.image for scene in scenes]))
    small, made, coded = F.avg_pool2d(large, upscale.AUTOENCODER.factor), [], []
    level = torch.tensor([LEVEL])
    for i, scene in enumerate(scenes):
        picture = large[i : i + 1]
        noised = upscale.low_resolution(picture, level, torch.Generator().manual_seed(i + 1))
        side = noised.shape[-1]
        made.append(sample(model, [scene.caption], side, scale=1, seed=i, concat=noised, y=(level, level)))
        with torch.inference_mode():
            coded.append(model.autoencoder.decode(model.autoencoder.encode(picture.to(device()))).cpu().clamp(-1, 1))
    bicubic = F.interpolate(small, size=large.shape[-2:], mode="bicubic").clamp(-1, 1)
    for name, found in (("bicubic", bicubic), ("upscaled", torch.cat(made)), ("autoencoder alone", torch.cat(coded))):
        error = (found - large).square().mean((1, 2, 3))
        yield f"{name}: {10 * torch.log10(4 / error).mean():.2f} dB"
    if sheet:
        nearest, quarter = F.interpolate(small, size=large.shape[-2:]), data.LARGE // 4
        middle = slice(quarter, 3 * quarter)
        draw(sheet, [rows[:, :, middle, middle] for rows in (nearest, bicubic, torch.cat(made), large)])


MEASURES = {"depth": measure_depth, "unclip": measure_unclip, "upscale": measure_upscale}


def to_bytes(pictures: Tensor) -> np.ndarray:
    """[N, 3, H, W] in -1..1 -> uint8 [N, H, W, 3]."""
    found: np.ndarray = pictures.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return found


def draw(path: Path, rows: list[Tensor]) -> None:
    """Write a sheet of pictures, rows of [N, 3, H, W] in -1..1 one above the other."""
    lines = [np.concatenate(list(to_bytes(row[:COLUMNS])), axis=1) for row in rows]
    Image.fromarray(np.concatenate(lines)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=MEASURES)
    parser.add_argument("--checkpoint", type=Path, help="instead of the bundled one")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "runs", help="of the classifier")
    parser.add_argument("--count", type=int, help="scenes, instead of the usual number")
    parser.add_argument("--sheet", type=Path, help="also draw some of what was made to this file")
    arguments = parser.parse_args()
    model = load_checkpoint(arguments.checkpoint or DEMO / FILES[arguments.phase][0], dtype=torch.float32)
    for part in (model.unet, model.text, model.autoencoder, model.image, model.depth):
        if part is not None:
            part.to(device(), torch.float32)
    count = arguments.count or COUNT[arguments.phase]
    for line in MEASURES[arguments.phase](model, arguments.folder, count, arguments.sheet):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
