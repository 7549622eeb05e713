"""The phase `depth`: a depth estimator, then the base resumed with its depth as a fifth input channel.

As the card of Stable Diffusion 2's depth model describes it, with MiDaS's network in small in place of MiDaS.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.midas import DPTHybrid
from ..models.specs import SPECS, DepthSpec
from . import dataset as data
from . import latent_cache as latents
from .train import (
    AUTOENCODER,
    SCENES,
    TextToImage,
    captions,
    denoising_loss,
    load_autoencoder,
    predecessor,
    resume,
    timesteps,
)
from .trainer import Plan, averaged, device, train

ESTIMATOR = DepthSpec(
    stem=32, channels=(128, 128, 256), depths=(1, 1, 1), width=64, layers=4, heads=1, grid=8, features=32, classes=1
)
ESTIMATOR_PLAN = Plan(steps=600, batch=16, rate=1e-3)
SCALES = 4  # at which gradients are compared
GRADIENTS = 0.5  # their weight


def train_depth(folder: Path, plan: Plan) -> None:
    fit_estimator(folder, ESTIMATOR_PLAN)
    scenes = latents.load(folder, load_autoencoder(folder), AUTOENCODER.scale, SCENES)
    pictures, _ = data.scenes(folder, SCENES)
    # the maps that the model will be given later, mistakes and all, and not the renderer's
    maps = depth_channel(estimate(load_estimator(folder), pictures), scenes.pictures.shape[-1])
    torch.manual_seed(plan.seed)
    model = TextToImage(SPECS["v2-depth"].unet.in_channels)
    resume(model, averaged(predecessor("depth", folder)), torch.zeros(0))
    model.text.requires_grad_(False)
    train(model, partial(depth_loss, scenes, maps, plan.batch), plan, folder / "depth.pt")


def depth_loss(
    scenes: latents.Latents,
    maps: Tensor,
    batch: int,
    model: nn.Module,
    choices: np.random.Generator,
    noise: torch.Generator,
) -> Tensor:
    """`denoising_loss` of the noise, the depth maps [N, 1, h, w] beside the noisy latents."""
    index = torch.from_numpy(choices.integers(0, len(maps), batch))
    tokens = captions(scenes.tokens, index, choices)
    t = timesteps(choices, batch)
    return denoising_loss(model, scenes.pictures[index], t, tokens, "epsilon", noise, concat=[maps[index]])


def depth_channel(depth: Tensor, side: int) -> Tensor:
    """Inverse depth [N, H, W] of any scale -> [N, 1, side, side] as the UNet sees it: -1 far, 1 near in each map."""
    small = F.interpolate(depth[:, None], size=(side, side), mode="bicubic")  # as the reference shrinks it
    low, high = small.amin((1, 2, 3), keepdim=True), small.amax((1, 2, 3), keepdim=True)
    return 2 * (small - low) / (high - low).clamp(min=1e-6) - 1  # a flat map is far


def fit_estimator(folder: Path, plan: Plan) -> None:
    pictures, _ = data.scenes(folder, SCENES)
    truth, _ = data.truths(folder, SCENES)
    unseen, _ = data.scenes(folder, data.CHECKED, data.UNSEEN)
    unseen_truth, _ = data.truths(folder, data.CHECKED, data.UNSEEN)
    torch.manual_seed(plan.seed)
    model = DPTHybrid(ESTIMATOR).to(memory_format=torch.channels_last)
    nn.init.ones_(model.scratch.output_conv[4].bias)  # else the last ReLU may be 0 everywhere, and then stays so

    def check(average: nn.Module) -> str:
        found = correlation(estimate(average, unseen), torch.from_numpy(unseen_truth.copy()).float())
        return f"correlation {found.mean():.4f}"

    train(model, partial(estimator_loss, pictures, truth, plan.batch), plan, folder / "estimator.pt", check)


def load_estimator(folder: Path) -> DPTHybrid:
    model = DPTHybrid(ESTIMATOR)
    model.load_state_dict(averaged(folder / "estimator.pt"))
    return model.to(device()).eval().requires_grad_(False)


def estimator_loss(
    pictures: np.ndarray,
    truth: np.ndarray,
    batch: int,
    model: nn.Module,
    choices: np.random.Generator,
    noise: torch.Generator,
) -> Tensor:
    """MiDaS's loss (Ranftl et al. 2019, arXiv:1907.01341, section 5) on random pictures and their inverse depth."""
    index = choices.integers(0, len(pictures), batch)
    target = torch.from_numpy(truth[index]).to(device()).float() / 255
    return midas_loss(model(data.to_tensor(pictures[index]).to(device())), target)


def midas_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Of inverse depths [B, H, W], whatever their scales and shifts: sum over pixels |R| / 2M and, at four scales,
    the sum of R's gradients over M, R being the difference of the two aligned maps."""
    error = aligned(predicted) - aligned(target)
    loss = error.abs().mean() / 2
    for scale in range(SCALES):
        coarse = error[:, :: 2**scale, :: 2**scale]
        loss = loss + GRADIENTS * (coarse.diff(dim=1).abs().mean() + coarse.diff(dim=2).abs().mean())
    return loss


def aligned(depth: Tensor) -> Tensor:
    """(d - t) / s of each map [B, H, W], t being its median and s the mean of |d - t| (equation 6)."""
    flat = depth.flatten(1)
    shifted = flat - flat.median(1, keepdim=True).values
    return (shifted / shifted.abs().mean(1, keepdim=True).clamp(min=1e-6)).view_as(depth)


@torch.inference_mode()
def estimate(model: nn.Module, pictures: np.ndarray) -> Tensor:
    """Inverse depth [N, H, W], of any scale, of pictures uint8 [N, H, W, 3]."""
    parts = np.array_split(pictures, max(1, len(pictures) // latents.BATCH))
    return torch.cat([model(data.to_tensor(part).to(device())).cpu() for part in parts]).clone()


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Of two maps [N, H, W] over the pixels of each: [N], 1 where they are the same but for scale and shift."""
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (a, b))
    return F.cosine_similarity(a, b, dim=1)


def beside(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the checkpoint holds beside UNet, autoencoder and text tower, by its key there."""
    return {f"depth_model.model.{key}": tensor for key, tensor in load_estimator(folder).state_dict().items()}
