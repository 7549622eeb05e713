"""The phase `upscale`: an autoencoder of factor 4, then a denoiser of its latents beside a picture of their size.

As the card of Stable Diffusion x4 upscaler describes it; it learns to turn scenes of 128 px into those of 512 px.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.autoencoder import AutoencoderKL
from ..models.noise_augmentation import noise_tables
from ..models.specs import SPECS
from ..samplers.schedule import NoiseSchedule
from . import data, latents
from .train import (
    TEXT,
    TextToImage,
    captions,
    crops,
    denoising_loss,
    fit_autoencoder,
    normalised,
    predecessor,
    timesteps,
)
from .trainer import Plan, averaged, device, train

X4 = SPECS["x4"]
AUTOENCODER = replace(X4.autoencoder, channels=32, num_res_blocks=1)
AUTOENCODER_PLAN = Plan(steps=800, batch=4, rate=2e-3)
UNET = replace(X4.unet, model_channels=64, channel_mult=(1, 1, 2, 2), num_res_blocks=1, context_dim=TEXT.width)
SCHEDULE = NoiseSchedule(beta_start=X4.beta_start, beta_end=X4.beta_end)  # of the latents, and of the small picture
LAST_LEVEL = X4.max_noise_level or 0
LOG_SIGMA = 0.5, 1.8  # wide: high noise decides colours, which lie in the small picture; the finer is decided later
SIDES = 64, 128, 256  # of crops, as many pixels of each: normalisation sees a whole picture later
SCENES = 500  # large ones, of which crops are taken


def train_upscale(folder: Path, plan: Plan) -> None:
    pictures, notes = data.large_scenes(folder, SCENES)
    unseen = data.large_scenes(folder, data.CHECKED, data.UNSEEN)[0][:, 192:320, 192:320]
    fit_autoencoder(AUTOENCODER, pictures, unseen, AUTOENCODER_PLAN, folder / "autoencoder4.pt")
    autoencoder = load_autoencoder(folder)
    tokens = torch.stack([torch.stack([latents.tokens_of(text) for text in note["captions"]]) for note in notes])
    torch.manual_seed(plan.seed)
    model = TextToImage(UNET.in_channels, UNET)
    base = averaged(predecessor("upscale", folder))
    model.text.load_state_dict({key.removeprefix("text."): w for key, w in base.items() if key.startswith("text.")})
    model.text.requires_grad_(False)
    loss = partial(upscale_loss, autoencoder, pictures, tokens, plan.batch)
    train(model, loss, plan, folder / "upscale.pt")


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """The trained autoencoder, its latents normalised."""
    pictures, _ = data.large_scenes(folder, SCENES)
    _, sharp = crops(pictures, 256, np.random.default_rng(0))
    return normalised(AUTOENCODER, averaged(folder / "autoencoder4.pt"), sharp)


def upscale_loss(
    autoencoder: AutoencoderKL,
    pictures: np.ndarray,
    tokens: Tensor,
    batch: int,
    model: nn.Module,
    choices: np.random.Generator,
    noise: torch.Generator,
) -> Tensor:
    """`denoising_loss` of the velocity on crops; beside the noisy latents the crop at a fourth of its size, noised to
    a random level that is told as the class (arXiv:2106.15282, section 4.2)."""
    side = int(choices.choice(SIDES))
    index, sharp = crops(pictures, max(1, batch * SIDES[0] ** 2 // side**2), choices, side)
    large = data.to_tensor(sharp).to(device())
    x0 = AUTOENCODER.scale * autoencoder.encode(large)
    levels = torch.from_numpy(choices.integers(0, LAST_LEVEL + 1, len(x0)))
    small = low_resolution(large, levels, noise)
    words = captions(tokens, torch.from_numpy(index), choices)
    t = timesteps(choices, len(x0), SCHEDULE, LOG_SIGMA)
    return denoising_loss(model, x0, t, words, "v_prediction", noise, concat=[small], y=levels, schedule=SCHEDULE)


def low_resolution(large: Tensor, levels: Tensor, noise: torch.Generator) -> Tensor:
    """Pictures [B, 3, 4h, 4w] -> [B, 3, h, w], each pixel the mean of its square, noised to `levels` [B]."""
    small = F.avg_pool2d(large, AUTOENCODER.factor)
    a = SCHEDULE.alphas_cumprod[levels].to(small)[:, None, None, None]
    return a.sqrt() * small + (1 - a).sqrt() * torch.randn(small.shape, generator=noise, device=small.device)


def beside(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the checkpoint holds beside UNet, autoencoder and text tower, by its key there: the small picture's
    noise schedule."""
    return {f"low_scale_model.{name}": table for name, table in noise_tables(SCHEDULE.betas).items()}
