"""The depth estimator of the depth model: a small DPT-Hybrid trained with MiDaS's loss on the renderer's depth."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.midas import DPTHybrid
from ..models.specs import DepthSpec
from ..pipeline.components import DepthModel, compute_device
from . import dataset
from .dataset import Images
from .latent_cache import BATCH_SIZE
from .trainer import Plan, averaged, train

ESTIMATOR = DepthSpec(
    stem=32, channels=(128, 128, 256), depths=(1, 1, 1), width=64, layers=4, heads=1, grid=8, features=32
)
ESTIMATOR_PLAN = Plan(steps=600, batch_size=16, learning_rate=1e-3)
GRADIENT_SCALES = 4
GRADIENT_WEIGHT = 0.5


def train_estimator(folder: Path, plan: Plan) -> None:
    images, _ = dataset.scenes(folder, dataset.SCENE_COUNT)
    truth, _ = dataset.ground_truth(folder, dataset.SCENE_COUNT)
    unseen, _ = dataset.scenes(folder, dataset.VALIDATION_COUNT, dataset.FIRST_UNSEEN)
    unseen_truth, _ = dataset.ground_truth(folder, dataset.VALIDATION_COUNT, dataset.FIRST_UNSEEN)
    torch.manual_seed(plan.seed)
    loss = partial(estimator_loss, images, truth, plan.batch_size)
    train(new_estimator(), loss, plan, folder / "estimator.pt", partial(quality, unseen, unseen_truth))


def new_estimator() -> DPTHybrid:
    """Build an estimator to be trained."""
    model = DPTHybrid(ESTIMATOR).to(memory_format=torch.channels_last)
    last = model.get_submodule("scratch.output_conv.4")
    nn.init.ones_(last.get_parameter("bias"))  # else the last ReLU may be 0 everywhere, and then stays so
    return model


def load_estimator(folder: Path) -> DPTHybrid:
    model = DPTHybrid(ESTIMATOR)
    model.load_state_dict(averaged(folder / "estimator.pt"))
    return model.to(compute_device()).eval().requires_grad_(False)


def estimator_loss(
    images: Images,
    truth: NDArray[np.uint8],
    batch_size: int,
    model: DPTHybrid,
    choices: np.random.Generator,
    noise: torch.Generator,
) -> Tensor:
    """Return MiDaS's loss (Ranftl et al. 2019, arXiv:1907.01341, section 5) on random images and their depth."""
    index = choices.integers(0, len(images), batch_size)
    target = torch.from_numpy(truth[index]).to(compute_device()).float() / 255
    return midas_loss(model(dataset.to_tensor(images[index]).to(compute_device())), target)


def midas_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Compare inverse depths [B, H, W] regardless of scale and shift.

    The loss is the sum over pixels of |R| / 2M and, at four scales, of the gradients of R over M, where R is the
    difference of the two aligned maps.
    """
    error = aligned(predicted) - aligned(target)
    loss = error.abs().mean() / 2
    for scale in range(GRADIENT_SCALES):
        coarse = error[:, :: 2**scale, :: 2**scale]
        loss = loss + GRADIENT_WEIGHT * (coarse.diff(dim=1).abs().mean() + coarse.diff(dim=2).abs().mean())
    return loss


def aligned(depth: Tensor) -> Tensor:
    """Compute (d - t) / s of each map [B, H, W], with t its median and s the mean of |d - t| (equation 6)."""
    flat = depth.flatten(1)
    shifted = flat - flat.median(1, keepdim=True).values
    return (shifted / shifted.abs().mean(1, keepdim=True).clamp(min=1e-6)).view_as(depth)


def estimate(model: DPTHybrid, images: Images) -> Tensor:
    """Estimate inverse depth [N, H, W], of any scale, of images uint8 [N, H, W, 3], a few at a time."""
    parts = dataset.batches(images, BATCH_SIZE)
    return torch.cat([DepthModel(model).estimate(dataset.to_floats(part)) for part in parts])


def quality(images: Images, truth: NDArray[np.uint8], model: DPTHybrid) -> str:
    found = correlation(estimate(model, images), torch.from_numpy(truth.copy()).float())
    return f"correlation {found.mean():.4f}"


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlate the pixels of maps [N, H, W] pair by pair: [N], 1 where they differ only in scale and shift."""
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    return F.cosine_similarity(a, b, dim=1)
