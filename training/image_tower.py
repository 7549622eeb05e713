"""The image tower of the unCLIP model: a small CLIP vision transformer whose embedding encodes the whole scene."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.clip_image import ImageTower, preprocess
from ..models.specs import ImageSpec
from ..pipeline.components import CLIPVision, compute_device
from . import dataset
from .dataset import Images
from .networks import TEXT
from .trainer import Plan, averaged, train
from .world.scenes import BACKGROUNDS, COLORS, KINDS

TOWER = ImageSpec(width=160, layers=4, head_width=80, patch_size=16, image_size=dataset.SIZE, embed_dim=TEXT.width)
TOWER_PLAN = Plan(steps=3_000, batch_size=32, learning_rate=1e-3)
EMBEDDING_NOISE = 0.2  # standard deviation; labels must survive it, so none is encoded in tiny differences
IGNORE_INDEX = -100  # the color of an absent kind: the label that cross_entropy ignores
NORMALIZATION_IMAGES = 1024
READOUT_SIZES = {
    "kinds": len(KINDS),
    "colors": len(KINDS) * len(COLORS),
    "boxes": len(KINDS) * 4,
    "background": len(BACKGROUNDS),
}


@dataclass(frozen=True, kw_only=True)
class SceneLabels:
    """The contents of N scenes."""

    kinds: Tensor  # [N, kinds], 1 where there is one
    colors: Tensor  # int64 [N, kinds], or IGNORE_INDEX
    boxes: Tensor  # [N, kinds, 4] in 0..1
    background: Tensor  # int64 [N]

    @classmethod
    def from_notes(cls, notes: list[dataset.Note]) -> SceneLabels:
        """Convert the notes of `dataset.ground_truth`."""
        kinds = torch.zeros(len(notes), len(KINDS))
        colors = torch.full(kinds.shape, IGNORE_INDEX)
        boxes = torch.zeros(*kinds.shape, 4)
        for i, note in enumerate(notes):
            for item in note["items"]:
                k = KINDS.index(item["kind"])
                kinds[i, k], colors[i, k] = 1, list(COLORS).index(item["color"])
                boxes[i, k] = torch.tensor(item["box"]) / dataset.SIZE
        background = torch.tensor([BACKGROUNDS.index(note["background"]) for note in notes])
        return cls(kinds=kinds, colors=colors, boxes=boxes, background=background)


class SceneReader(nn.Module):
    """The image tower with one linear layer that predicts the scene's labels from its embedding.

    CLIP's contrastive loss needs batches of thousands to encode small objects. The renderer's labels (kinds, colors,
    boxes and background) are available here and take minutes to learn. The embedding need not match captions, because
    only the UNet reads it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tower = ImageTower(TOWER)
        self.read = nn.Linear(TOWER.embed_dim, sum(READOUT_SIZES.values()))

    def forward(self, pixels: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
        """pixels: [B, 3, 128, 128] from `preprocess` -> logits of kinds, colors and background, and boxes."""
        e = F.batch_norm(self.tower(pixels), None, None, training=True)  # as `load_tower` normalizes it
        e = e + EMBEDDING_NOISE * torch.randn(e.shape, generator=noise, device=e.device)
        kinds, colors, boxes, background = torch.split(self.read(e), list(READOUT_SIZES.values()), dim=1)
        return {
            "kinds": kinds,
            "colors": colors.reshape(-1, len(KINDS), len(COLORS)),
            "boxes": boxes.reshape(-1, len(KINDS), 4),
            "background": background,
        }


def train_tower(folder: Path, plan: Plan) -> None:
    images, _ = dataset.scenes(folder, dataset.SCENE_COUNT)
    labels = read_labels(folder, dataset.SCENE_COUNT)
    unseen, _ = dataset.scenes(folder, dataset.VALIDATION_COUNT, dataset.FIRST_UNSEEN)
    check = partial(accuracy, unseen, read_labels(folder, dataset.VALIDATION_COUNT, dataset.FIRST_UNSEEN))
    torch.manual_seed(plan.seed)
    train(SceneReader(), partial(tower_loss, images, labels, plan.batch_size), plan, folder / "tower.pt", check)


def read_labels(folder: Path, count: int, first: int = 0) -> SceneLabels:
    _, notes = dataset.ground_truth(folder, count, first)
    return SceneLabels.from_notes(notes)


def tower_loss(
    images: Images,
    labels: SceneLabels,
    batch_size: int,
    model: SceneReader,
    choices: np.random.Generator,
    noise: torch.Generator,
) -> Tensor:
    """Return the sum of the errors of all labels predicted for random scenes."""
    index = choices.integers(0, len(images), batch_size)
    found = model(pixels(images[index]).to(compute_device()), noise)
    kinds, colors, boxes, background = (
        part[torch.from_numpy(index)].to(compute_device())
        for part in (labels.kinds, labels.colors, labels.boxes, labels.background)
    )
    present = kinds.bool()
    loss: Tensor = (
        F.binary_cross_entropy_with_logits(found["kinds"], kinds, reduction="sum") / batch_size
        + F.cross_entropy(found["colors"].flatten(0, 1), colors.flatten(), ignore_index=IGNORE_INDEX)
        + (found["boxes"] - boxes)[present].abs().sum() / batch_size
        + F.cross_entropy(found["background"], background)
    )
    return loss


@torch.inference_mode()
def accuracy(images: Images, labels: SceneLabels, model: SceneReader) -> str:
    """Describe how accurately labels are predicted from the embeddings of images."""
    found = model(pixels(images).to(compute_device()), torch.Generator(compute_device()).manual_seed(0))
    present = labels.kinds.bool()
    kind = labels.kinds.gather(1, found["kinds"].cpu().argmax(1, keepdim=True)).mean()
    color = (found["colors"].cpu().argmax(2) == labels.colors)[present].float().mean()
    background = (found["background"].cpu().argmax(1) == labels.background).float().mean()
    error = (found["boxes"].cpu() - labels.boxes)[present].abs().mean() * dataset.SIZE
    return (
        f"kind {100 * kind:.1f} %, color {100 * color:.1f} %, background {100 * background:.1f} %, "
        f"boxes off by {error:.1f} px"
    )


def pixels(images: Images) -> Tensor:
    """Convert uint8 [N, H, W, 3] to the tower's input [N, 3, size, size]."""
    return preprocess(dataset.to_floats(images), TOWER.image_size)


def embed(tower: ImageTower, images: Images) -> Tensor:
    """Embed images uint8 [N, H, W, 3], a few at a time: [N, dim]."""
    vision = CLIPVision(tower)
    return torch.cat(
        [vision.encode_image(dataset.to_floats(part)).image_embeds for part in dataset.batches(images, 64)]
    )


def load_tower(folder: Path) -> ImageTower:
    """Load the trained tower with embeddings normalized to mean 0 and standard deviation 1 over the scenes.

    The noise then has the right size without `data_mean` and `data_std`, for which the official file has no keys.
    """
    weights = averaged(folder / "tower.pt")
    tower = ImageTower(TOWER)
    tower.load_state_dict({key.removeprefix("tower."): w for key, w in weights.items() if key.startswith("tower.")})
    tower.to(compute_device()).eval().requires_grad_(False)
    images, _ = dataset.scenes(folder, dataset.SCENE_COUNT)
    e = embed(tower, images[:NORMALIZATION_IMAGES]).to(compute_device())
    normalize_embeddings(tower, e.mean(0), e.std(0))
    return tower


def normalize_embeddings(tower: ImageTower, mean: Tensor, std: Tensor) -> None:
    """Fold (e - mean) / std into the last layers of the tower.

    e = (x + b) P becomes (e - mean) / std by P' = P / std and b' = b - (mean / std) P'^+, for P'^+ P' = 1
    """
    projection, last = tower.visual.proj, tower.visual.ln_post
    projection /= std
    last.bias -= (mean / std) @ torch.linalg.pinv(projection)
