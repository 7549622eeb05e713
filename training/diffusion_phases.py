"""The phases `base`, `v` and `inpaint`: a text-to-image UNet, its v objective, and its inpainting inputs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..models.specs import SPECS, Prediction
from ..pipeline import inpaint
from .autoencoder_phase import load_autoencoder
from .latent_cache import SceneLatents, scene_latents
from .networks import UNET, TextToImage
from .objectives import denoising_loss, random_captions, random_timesteps
from .trainer import Plan, train
from .warm_start import predecessor, resume, starting_weights

INPAINT_CHANNELS = SPECS["v2-inpaint"].unet.in_channels
FULL_MASK_PROBABILITY = 0.25
HIDDEN_THRESHOLD = 0.7  # an object counts as hidden where the mask covers more of it
HIDDEN_WEIGHT = 4  # sampling weight of masks that hide an object


def train_diffusion(name: str, folder: Path, plan: Plan) -> None:
    scenes = scene_latents(folder, load_autoencoder(folder))
    torch.manual_seed(plan.seed)
    model = TextToImage(INPAINT_CHANNELS if name == "inpaint" else UNET.in_channels)
    resumed = predecessor(name, folder) is not None
    if resumed:
        hidden = inpaint.join(torch.ones_like(scenes.gray[:, :1]), scenes.gray)
        resume(model, starting_weights(name, folder), hidden.mean((0, 2, 3)))
    model.text.requires_grad_(not resumed)  # one text encoder for all models that are made from a base
    prediction: Prediction = "v_prediction" if name == "v" else "epsilon"
    train(model, partial(diffusion_loss, scenes, plan.batch_size, prediction), plan, folder / f"{name}.pt")


def diffusion_loss(
    scenes: SceneLatents,
    batch_size: int,
    prediction: Prediction,
    model: TextToImage,
    choices: np.random.Generator,
    noise: torch.Generator,
) -> Tensor:
    """Return `denoising_loss` on random scenes and captions, with mask and masked latents for an inpainting model."""
    inpainting = model.unet.spec.in_channels == INPAINT_CHANNELS
    index = random_scenes(scenes, batch_size, choices, prefer_hidden=inpainting)
    tokens = random_captions(scenes.tokens, index, choices)
    t = random_timesteps(choices, batch_size)
    concat = [inpainting_inputs(scenes, index, choices)] if inpainting else []
    return denoising_loss(model, scenes.images[index], t, tokens, prediction, noise, concat=concat)


def random_scenes(scenes: SceneLatents, count: int, choices: np.random.Generator, *, prefer_hidden: bool) -> Tensor:
    """Draw indices of scenes, int64 [count]; `prefer_hidden` favors those whose mask hides an object."""
    preferred = (scenes.hidden > HIDDEN_THRESHOLD) & torch.tensor(prefer_hidden)
    weights = torch.where(preferred, HIDDEN_WEIGHT, 1)
    return torch.from_numpy(choices.choice(len(weights), count, p=(weights / weights.sum()).numpy()))


def inpainting_inputs(scenes: SceneLatents, index: Tensor, choices: np.random.Generator) -> Tensor:
    """Return the mask and the masked latents of scenes, some of them masked everywhere: [B, 5, h, w]."""
    full = torch.from_numpy(choices.random(len(index)) < FULL_MASK_PROBABILITY)[:, None, None, None]
    mask = torch.where(full, 1.0, scenes.masks[index])
    return inpaint.join(mask, torch.where(full, scenes.gray, scenes.masked[index]))
