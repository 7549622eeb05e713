"""The phase `depth`: a depth estimator, then the base resumed with its depth as a fifth input channel.

It follows the card of Stable Diffusion 2's depth model, with a small estimator in place of MiDaS.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..models.specs import SPECS
from ..pipeline import depth
from . import dataset, depth_estimator
from .autoencoder_phase import load_autoencoder
from .depth_estimator import estimate, load_estimator, train_estimator
from .latent_cache import SceneLatents, scene_latents
from .networks import TextToImage
from .objectives import denoising_loss, random_captions, random_timesteps
from .trainer import Plan, train
from .warm_start import resume, starting_weights


def train_depth(folder: Path, plan: Plan) -> None:
    train_estimator(folder, depth_estimator.ESTIMATOR_PLAN)
    scenes = scene_latents(folder, load_autoencoder(folder))
    images, _ = dataset.scenes(folder, dataset.SCENE_COUNT)
    # the maps that the model will be given later, with their errors, and not the renderer's
    maps = depth.fit(estimate(load_estimator(folder), images)[:, None], *scenes.images.shape[-2:])
    torch.manual_seed(plan.seed)
    model = TextToImage(SPECS["v2-depth"].unet.in_channels)
    resume(model, starting_weights("depth", folder))
    model.text.requires_grad_(False)
    train(model, partial(depth_loss, scenes, maps, plan.batch_size), plan, folder / "depth.pt")


def depth_loss(
    scenes: SceneLatents,
    maps: Tensor,
    batch_size: int,
    model: TextToImage,
    choices: np.random.Generator,
    noise: torch.Generator,
) -> Tensor:
    """Return `denoising_loss` of the noise, with the depth maps [N, 1, h, w] beside the noisy latents."""
    index = torch.from_numpy(choices.integers(0, len(maps), batch_size))
    tokens = random_captions(scenes.tokens, index, choices)
    t = random_timesteps(choices, batch_size)
    return denoising_loss(model, scenes.images[index], t, tokens, "epsilon", noise, concat=[maps[index]])


def extra_tensors(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the checkpoint's tensors besides UNet, autoencoder and text encoder: those of the depth estimator."""
    return {f"depth_model.model.{key}": tensor for key, tensor in load_estimator(folder).state_dict().items()}
