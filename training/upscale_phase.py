"""The phase `upscale`: an autoencoder of factor 4, then a denoiser of its latents beside a picture of their size.

As the card of Stable Diffusion x4 upscaler describes it; it learns to turn scenes of 128 px into those of 512 px.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..models.autoencoder import AutoencoderKL
from ..models.noise_augmentation import noise_tables
from ..models.specs import SPECS
from ..samplers.schedule import NoiseSchedule
from . import dataset as data
from . import latent_cache as latents
from .train import (
    TEXT,
    TextToImage,
    captions,
    coding_loss,
    crops,
    denoising_loss,
    new_autoencoder,
    normalised,
    predecessor,
    quality,
    timesteps,
)
from .trainer import Plan, averaged, device, train

X4 = SPECS["x4"]
AUTOENCODER = replace(X4.autoencoder, channels=48, channel_mult=(1, 1, 2), num_res_blocks=1)
AUTOENCODER_PLAN = Plan(steps=1_700, batch=4, rate=2e-3)
UNET = replace(X4.unet, model_channels=96, channel_mult=(1, 1, 1, 1), num_res_blocks=1, context_dim=TEXT.width)
GROUPS = 4, 3  # channels that are normalised together in the two
SCHEDULE = NoiseSchedule(beta_start=X4.beta_start, beta_end=X4.beta_end)  # of the latents, and of the small picture
LAST_LEVEL = X4.max_noise_level or 0
LOG_SIGMA = 0.5, 1.8  # wide: high noise decides colours, which lie in the small picture; the finer is decided later
SIDES = 16, 32, 64  # of crops, in latent pixels: normalisation sees a whole picture later
WHOLE = AUTOENCODER.factor * SIDES[-1]
SCENES = 500  # large ones, of which crops are taken


def train_upscale(folder: Path, plan: Plan) -> None:
    fit_autoencoder(folder, AUTOENCODER_PLAN)
    scenes = load_scenes(folder)
    torch.manual_seed(plan.seed)
    model = new_denoiser()
    base = averaged(predecessor("upscale", folder))
    model.text.load_state_dict({key.removeprefix("text."): w for key, w in base.items() if key.startswith("text.")})
    model.text.requires_grad_(False)
    train(model, partial(upscale_loss, scenes, plan.batch), plan, folder / "upscale.pt")


def new_denoiser() -> TextToImage:
    model = TextToImage(UNET.in_channels, UNET)
    keep_colour(model.unet, GROUPS[1])
    return model


@torch.no_grad()
def keep_colour(model: nn.Module, group: int) -> None:
    """Two channels of each group start at 1 and -1, so that its normalisation hardly changes the others.

    Else it takes a flat colour for an offset, and removes it: to keep one, thousands of steps go by.
    """
    for name, layer in model.named_modules():
        normalised = isinstance(layer, nn.Conv2d) and layer.out_channels >= 32 and layer.weight.any()
        if normalised and (layer.kernel_size == (3, 3) or name.endswith(("shortcut", "skip_connection"))):
            layer.bias.view(-1, group)[:, -2:] = torch.tensor([1.0, -1.0])


def fit_autoencoder(folder: Path, plan: Plan) -> None:
    pictures, _ = data.large_scenes(folder, SCENES)
    unseen = data.large_scenes(folder, data.CHECKED, data.UNSEEN)[0][:, 128:384, 128:384]
    torch.manual_seed(plan.seed)
    model = new_autoencoder(AUTOENCODER)
    keep_colour(model, GROUPS[0])
    loss = partial(autoencoder_loss, pictures, plan.batch)
    train(model, loss, plan, folder / "autoencoder4.pt", partial(quality, unseen))


def autoencoder_loss(
    pictures: np.ndarray, batch: int, model: nn.Module, choices: np.random.Generator, noise: torch.Generator
) -> Tensor:
    """`coding_loss` of crops, and how far the first three latents are from the picture at a fourth of its size.

    So the denoiser finds them in the small picture beside them; the fourth tells what is lost on the way down.
    """
    side = int(choices.choice(SIDES))
    _, sharp = crops(pictures, as_many(batch, side), choices, AUTOENCODER.factor * side)
    x = data.to_tensor(sharp).to(device())
    loss, mean = coding_loss(model, x, noise)
    return loss + (mean[:, :3] - F.avg_pool2d(x, AUTOENCODER.factor)).square().mean()


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """The trained autoencoder, its latents normalised."""
    pictures, _ = data.large_scenes(folder, SCENES)
    _, sharp = crops(pictures, 64, np.random.default_rng(0), WHOLE)
    return normalised(AUTOENCODER, averaged(folder / "autoencoder4.pt"), sharp)


def as_many(batch: int, side: int) -> int:
    """How many crops of `side` hold the pixels of `batch` of the smallest side, at least one."""
    return max(1, batch * SIDES[0] ** 2 // side**2)


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """N pictures of WHOLE pixels as the denoiser sees them."""

    latents: Tensor  # [N, 4, 64, 64], scaled
    small: Tensor  # [N, 3, 64, 64] in -1..1
    tokens: Tensor  # int64 [N, captions, 77]


def load_scenes(folder: Path) -> Scenes:
    """A part of each of SCENES; their latents are in `folder` if they were encoded before."""
    pictures, notes = data.large_scenes(folder, SCENES)
    index, sharp = crops(pictures, SCENES, np.random.default_rng(1), WHOLE)
    path = folder / "latents4.pt"
    if not path.exists():
        autoencoder = load_autoencoder(folder)
        parts = tqdm(np.array_split(sharp, max(1, SCENES // latents.BATCH)), path.stem)
        torch.save(
            torch.cat([latents.encode(autoencoder, AUTOENCODER.scale, data.to_tensor(part)) for part in parts]), path
        )
    return Scenes(
        latents=torch.load(path, weights_only=True),
        small=F.avg_pool2d(data.to_tensor(sharp), AUTOENCODER.factor),
        tokens=torch.stack([torch.stack([latents.tokens_of(text) for text in notes[i]["captions"]]) for i in index]),
    )


def upscale_loss(
    scenes: Scenes, batch: int, model: nn.Module, choices: np.random.Generator, noise: torch.Generator
) -> Tensor:
    """`denoising_loss` of the velocity on crops; beside the noisy latents the crop of the small picture, noised to a
    random level that is told as the class (arXiv:2106.15282, section 4.2)."""
    side = int(choices.choice(SIDES))
    count = as_many(batch, side)
    index = torch.from_numpy(choices.integers(0, len(scenes.small), count))
    y, x = choices.integers(0, scenes.small.shape[-1] - side + 1, 2)
    x0, small = (whole[index, :, y : y + side, x : x + side] for whole in (scenes.latents, scenes.small))
    levels = torch.from_numpy(choices.integers(0, LAST_LEVEL + 1, count))
    beside = noised(small.to(device()), levels, noise)
    words = captions(scenes.tokens, index, choices)
    t = timesteps(choices, count, SCHEDULE, LOG_SIGMA)
    return denoising_loss(model, x0, t, words, "v_prediction", noise, concat=[beside], y=levels, schedule=SCHEDULE)


def low_resolution(large: Tensor, levels: Tensor, noise: torch.Generator) -> Tensor:
    """Pictures [B, 3, 4h, 4w] -> [B, 3, h, w], each pixel the mean of its square, noised to `levels` [B]."""
    return noised(F.avg_pool2d(large, AUTOENCODER.factor), levels, noise)


def noised(small: Tensor, levels: Tensor, noise: torch.Generator) -> Tensor:
    """sqrt(a) x + sqrt(1 - a) n, a being `alphas_cumprod` at the level of each picture [B, 3, h, w]."""
    a = SCHEDULE.alphas_cumprod[levels].to(small)[:, None, None, None]
    return a.sqrt() * small + (1 - a).sqrt() * torch.randn(small.shape, generator=noise, device=small.device)


def beside(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the checkpoint holds beside UNet, autoencoder and text tower, by its key there: the small picture's
    noise schedule."""
    return {f"low_scale_model.{name}": table for name, table in noise_tables(SCHEDULE.betas).items()}
