"""The phase `upscale`: an autoencoder of factor 4, then a denoiser of its latents beside an image of their size.

It follows the card of the Stable Diffusion x4 upscaler, from scenes of 128 px to scenes of 512 px.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.autoencoder import AutoencoderKL
from ..models.noise_augmentation import noise_tables
from ..models.specs import SPECS
from ..pipeline import upscale
from ..pipeline.components import VAE, compute_device
from ..samplers.schedule import NoiseSchedule
from . import dataset
from .autoencoder_phase import coding_loss, normalized, quality
from .dataset import Images
from .latent_cache import BATCH_SIZE, caption_tokens
from .networks import TEXT, TextToImage, bias, new_autoencoder
from .objectives import denoising_loss, random_captions, random_timesteps
from .progress_bar import progress_bar
from .random_crops import random_crops
from .trainer import Plan, averaged, train
from .warm_start import starting_weights

X4 = SPECS["x4"]
AUTOENCODER = replace(X4.autoencoder, channels=48, channel_mult=(1, 1, 2), num_res_blocks=1, group_size=4)
AUTOENCODER_PLAN = Plan(steps=1_700, batch_size=4, learning_rate=2e-3)
UNET = replace(X4.unet, model_channels=96, channel_mult=(1, 1, 1, 1), num_res_blocks=1, context_dim=TEXT.width)
AUTOENCODER_GROUP, UNET_GROUP = 4, 3  # channels that are normalized together
SCHEDULE = NoiseSchedule(beta_start=X4.beta_start, beta_end=X4.beta_end)  # of the latents
LOG_SIGMA = 0.5, 1.8  # wide: high noise decides colors, which the small image holds; low noise decides details
CROP_SIDES = 16, 32, 64  # in latent pixels; several, because normalization covers the whole image at inference
LARGEST_CROP = AUTOENCODER.factor * CROP_SIDES[-1]
NORMALIZATION_CROPS = 64


def train_upscale(folder: Path, plan: Plan) -> None:
    train_upscale_autoencoder(folder, AUTOENCODER_PLAN)
    scenes = load_scenes(folder)
    torch.manual_seed(plan.seed)
    model = new_denoiser()
    base = starting_weights("upscale", folder)
    model.text.load_state_dict({key.removeprefix("text."): w for key, w in base.items() if key.startswith("text.")})
    model.text.requires_grad_(False)
    train(model, partial(upscale_loss, scenes, plan.batch_size), plan, folder / "upscale.pt")


def new_denoiser() -> TextToImage:
    """Build a denoiser to be trained."""
    model = TextToImage(UNET.in_channels, UNET)
    preserve_flat_colors(model.unet, UNET_GROUP)
    return model


@torch.no_grad()
def preserve_flat_colors(model: nn.Module, group: int) -> None:
    """Start two channels of each normalized group at 1 and -1, so that normalization hardly changes the others.

    Otherwise a group norm removes a flat color as an offset, and learning to keep it takes thousands of steps.
    """
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d) or layer.out_channels < 32 or not layer.weight.any():
            continue
        if layer.kernel_size == (3, 3) or name.endswith(("shortcut", "skip_connection")):
            bias(layer).view(-1, group)[:, -2:] = torch.tensor([1.0, -1.0])


def train_upscale_autoencoder(folder: Path, plan: Plan) -> None:
    images, _ = dataset.large_scenes(folder, dataset.LARGE_SCENE_COUNT)
    unseen, _ = dataset.large_scenes(folder, dataset.VALIDATION_COUNT, dataset.FIRST_UNSEEN)
    torch.manual_seed(plan.seed)
    model = new_autoencoder(AUTOENCODER)
    preserve_flat_colors(model, AUTOENCODER_GROUP)
    loss = partial(autoencoder_loss, images, plan.batch_size)
    train(model, loss, plan, folder / "autoencoder4.pt", partial(quality, unseen[:, 128:384, 128:384], AUTOENCODER))


def autoencoder_loss(
    images: Images, batch_size: int, model: AutoencoderKL, choices: np.random.Generator, noise: torch.Generator
) -> Tensor:
    """Return `coding_loss` of crops plus the error of the first three latents against the image at 1/4 of its size.

    The denoiser then finds these three in the small image beside them; the fourth holds what the small image lacks.
    """
    side = int(choices.choice(CROP_SIDES))
    _, sharp = random_crops(images, crop_count(batch_size, side), choices, AUTOENCODER.factor * side)
    x = dataset.to_tensor(sharp).to(compute_device())
    loss, mean = coding_loss(model, x, noise)
    return loss + (mean[:, :3] - shrink(x)).square().mean()


def load_upscale_autoencoder(folder: Path) -> VAE:
    """Load the trained autoencoder with normalized latents."""
    images, _ = dataset.large_scenes(folder, dataset.LARGE_SCENE_COUNT)
    _, sharp = random_crops(images, NORMALIZATION_CROPS, np.random.default_rng(0), LARGEST_CROP)
    return normalized(AUTOENCODER, averaged(folder / "autoencoder4.pt"), sharp)


def crop_count(batch_size: int, side: int) -> int:
    """Return how many crops of `side` hold the pixels of `batch_size` crops of the smallest side, at least one."""
    return max(1, batch_size * CROP_SIDES[0] ** 2 // side**2)


@dataclass(frozen=True, kw_only=True)
class UpscaleScenes:
    """N crops of LARGEST_CROP pixels as the denoiser reads them."""

    latents: Tensor  # [N, 4, 64, 64], scaled
    small: Tensor  # [N, 3, 64, 64] in -1..1
    tokens: Tensor  # int64 [N, captions, 77]


def load_scenes(folder: Path) -> UpscaleScenes:
    """Read a crop of each large scene; the latents are read from `folder`, computed first if missing."""
    images, notes = dataset.large_scenes(folder, dataset.LARGE_SCENE_COUNT)
    # a fixed seed: the crops stay those of the stored latents
    index, sharp = random_crops(images, dataset.LARGE_SCENE_COUNT, np.random.default_rng(1), LARGEST_CROP)
    path = folder / "latents4.pt"
    if not path.exists():
        torch.save(encode_crops(load_upscale_autoencoder(folder), sharp), path)
    return UpscaleScenes(
        latents=torch.load(path, weights_only=True),
        small=shrink(dataset.to_tensor(sharp)),
        tokens=caption_tokens([notes[i] for i in index]),
    )


def encode_crops(vae: VAE, crops: Images) -> Tensor:
    """Compute scaled latents [N, 4, h, w] of crops uint8 [N, 4h, 4w, 3]."""
    parts = progress_bar(dataset.batches(crops, BATCH_SIZE), "latents4")
    return vae.spec.scale * torch.cat([vae.encode(dataset.to_floats(part)) for part in parts])


def upscale_loss(
    scenes: UpscaleScenes, batch_size: int, model: TextToImage, choices: np.random.Generator, noise: torch.Generator
) -> Tensor:
    """Return `denoising_loss` of the velocity on crops, with the noised small image beside the noisy latents.

    Its random noise level is the class condition (arXiv:2106.15282, section 4.2).
    """
    side = int(choices.choice(CROP_SIDES))
    count = crop_count(batch_size, side)
    index = torch.from_numpy(choices.integers(0, len(scenes.small), count))
    y, x = choices.integers(0, scenes.small.shape[-1] - side + 1, 2)
    x0, small = (whole[index, :, y : y + side, x : x + side] for whole in (scenes.latents, scenes.small))
    levels = torch.from_numpy(choices.integers(0, upscale.MAX_LEVEL + 1, count))
    draws = torch.randn(small.shape, generator=noise, device=compute_device())
    concat = [upscale.add_noise(small.to(draws), levels, draws)]
    tokens = random_captions(scenes.tokens, index, choices)
    t = random_timesteps(choices, count, SCHEDULE, LOG_SIGMA)
    return denoising_loss(model, x0, t, tokens, "v_prediction", noise, concat=concat, y=levels, schedule=SCHEDULE)


def shrink(large: Tensor) -> Tensor:
    """Shrink images [B, 3, 4h, 4w] to [B, 3, h, w]: each pixel is the mean of its square."""
    return F.avg_pool2d(large, AUTOENCODER.factor)


def extra_tensors(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the checkpoint's tensors besides UNet, autoencoder and text encoder: the small image's noise schedule."""
    return {f"low_scale_model.{name}": table for name, table in noise_tables(upscale.SCHEDULE.betas).items()}
