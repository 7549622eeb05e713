"""A small classifier of objects and their colors, trained on rendered scenes only, that judges generated images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..pipeline.components import compute_device
from ..pipeline.lama_masks import Mask
from . import dataset
from .progress_bar import progress_bar
from .trainer import Plan, averaged, train
from .trials import PAIRS, Trial, object_mask
from .world.scenes import BACKGROUNDS, COLORS, KINDS, render

CROP_SIZE = 64
PLAN = Plan(steps=1_500, batch_size=48, learning_rate=2e-3)
EXAMPLES = 6_000
FIRST_EXAMPLE = 2 * dataset.FIRST_UNSEEN
JITTER = 0.1  # of each color channel, relative


class Classifier(nn.Module):
    """[B, 3, CROP_SIZE, CROP_SIZE] -> the logits of kinds [B, 12] and of colors [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(b // 16, b), nn.GELU())
                for a, b in pairwise(widths)
            ),
            nn.Flatten(),
        )
        self.kind = nn.Linear(128 * (CROP_SIZE // 16) ** 2, len(KINDS))
        self.color = nn.Linear(128 * (CROP_SIZE // 16) ** 2, len(COLORS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.kind(h), self.color(h)


def crop_to_mask(image: Tensor, mask: Mask) -> Tensor:
    """Cut the square around the mask out of an image [3, H, W], as the classifier's input."""
    ys, xs = np.nonzero(mask)
    half = int(max(np.ptp(ys), np.ptp(xs))) // 2 + 2
    y, x = (int(v.min() + v.max()) // 2 + half for v in (ys, xs))
    padded = F.pad(image[None], (half,) * 4, mode="replicate")
    square = padded[:, :, y - half : y + half, x - half : x + half]
    return F.interpolate(square, size=(CROP_SIZE, CROP_SIZE), mode="bilinear", antialias=True)[0]


def examples(count: int, first: int) -> tuple[Tensor, Tensor, Tensor]:
    """Render crops of objects [count, 3, CROP_SIZE, CROP_SIZE] with their kinds and colors, every pair as often."""
    crops, kinds, colors = [], [], []
    for seed in progress_bar(range(first, first + count), "examples"):
        rng = np.random.default_rng((seed, 4))
        background = str(rng.choice(BACKGROUNDS))
        scene = render(seed, size=dataset.SIZE, items=[PAIRS[seed % len(PAIRS)]], background=background)
        item = scene.items[0]
        crops.append(crop_to_mask(dataset.to_tensor(scene.image[None])[0], object_mask(rng, item)))
        kinds.append(KINDS.index(item.kind))
        colors.append(list(COLORS).index(item.color))
    return torch.stack(crops), torch.tensor(kinds), torch.tensor(colors)


def load_classifier(folder: Path) -> Classifier:
    """Load the trained classifier, trained first if `folder` has none."""
    model, path = Classifier(), folder / "object_classifier.pt"
    if not path.exists():
        train_classifier(path)
    model.load_state_dict(averaged(path))
    return model.eval().to(compute_device())


def train_classifier(path: Path) -> None:
    torch.manual_seed(PLAN.seed)
    crops, kinds, colors = examples(EXAMPLES, FIRST_EXAMPLE)

    def loss(model: Classifier, choices: np.random.Generator, noise: torch.Generator) -> Tensor:
        index = torch.from_numpy(choices.integers(0, len(crops), PLAN.batch_size))
        jitter = 1 + JITTER * torch.from_numpy(choices.uniform(-1, 1, (PLAN.batch_size, 3, 1, 1))).float()
        kind, color = model((crops[index] * jitter).to(compute_device()))
        kind_loss = F.cross_entropy(kind, kinds[index].to(compute_device()))
        return kind_loss + F.cross_entropy(color, colors[index].to(compute_device()))

    train(Classifier(), loss, PLAN, path)


@torch.inference_mode()
def recognize(model: Classifier, images: Tensor, masks: Sequence[Mask]) -> list[tuple[str, str]]:
    """The color and the kind of the object inside the mask of each of the images [N, H, W, 3]."""
    pixels = images.movedim(-1, 1) * 2 - 1  # BHWC in 0..1 -> BCHW in -1..1
    crops = torch.stack([crop_to_mask(image, mask) for image, mask in zip(pixels, masks, strict=True)])
    kinds, colors = (logits.argmax(1).tolist() for logits in model(crops.to(compute_device())))
    return [(list(COLORS)[color], KINDS[kind]) for color, kind in zip(colors, kinds, strict=True)]


def score(model: Classifier, images: Tensor, trials: list[Trial]) -> str:
    """Describe how many of the images [N, H, W, 3] show the right color, and the right object, inside the mask."""
    found = list(zip(recognize(model, images, [trial.mask for trial in trials]), trials, strict=True))
    right_color = [color == trial.color for (color, _), trial in found]
    right_kind = [kind == trial.kind for (_, kind), trial in found]
    return f"{100 * np.mean(right_color):.1f} % right color, {100 * np.mean(right_kind):.1f} % right object"
