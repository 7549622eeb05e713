"""The phase `autoencoder`: images to latents and back."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..models.autoencoder import AutoencoderKL
from ..models.specs import AutoencoderSpec
from ..pipeline.components import VAE, compute_device
from ..pipeline.types import Autoencoder
from . import dataset
from .dataset import Images
from .networks import AUTOENCODER, bias, new_autoencoder
from .random_crops import random_crops
from .trainer import Plan, averaged, train

KL_WEIGHT = 1e-4
NORMALIZATION_IMAGES = 256


def train_autoencoder(folder: Path, plan: Plan) -> None:
    images, _ = dataset.scenes(folder, dataset.SCENE_COUNT)
    unseen, _ = dataset.scenes(folder, dataset.VALIDATION_COUNT, dataset.FIRST_UNSEEN)
    torch.manual_seed(plan.seed)
    loss = partial(autoencoder_loss, images, plan.batch_size)
    check = partial(quality, unseen, AUTOENCODER)
    train(new_autoencoder(AUTOENCODER), loss, plan, folder / "autoencoder.pt", check)


def autoencoder_loss(
    images: Images, batch_size: int, model: AutoencoderKL, choices: np.random.Generator, noise: torch.Generator
) -> Tensor:
    """Return the coding loss of random crops."""
    _, crops = random_crops(images, batch_size, choices)
    return coding_loss(model, dataset.to_tensor(crops).to(compute_device()), noise)[0]


def coding_loss(model: AutoencoderKL, x: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the loss of encoding and decoding images x [B, 3, H, W], and the means of their latents."""
    mean, logvar = model.moments(x)
    z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape, generator=noise, device=mean.device)
    # KL(N(mean, var) || N(0, 1)), averaged over latents
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return pixel_loss(model.decode(z) - x) + KL_WEIGHT * kl, mean


def pixel_loss(error: Tensor) -> Tensor:
    """Return L1 and squared error, and L1 of the gradients: the difference of gradients is the error's gradient."""
    across, down = error.diff(dim=3), error.diff(dim=2)
    return error.abs().mean() + 5 * error.square().mean() + across.abs().mean() + down.abs().mean()


def psnr(images: Images, vae: Autoencoder) -> float:
    """Return the mean PSNR in dB of images encoded, decoded and rounded to 8 bits."""
    original = dataset.to_floats(images)
    decoded = dataset.to_floats(dataset.to_bytes(vae.decode(vae.encode(original))))
    return float(10 * torch.log10(1 / (decoded - original).square().mean((1, 2, 3))).mean())


def quality(images: Images, spec: AutoencoderSpec, model: AutoencoderKL) -> str:
    return f"PSNR {psnr(images, VAE(model, spec)):.2f} dB"


def load_autoencoder(folder: Path) -> VAE:
    """Load the trained autoencoder with normalized latents."""
    images, _ = dataset.scenes(folder, dataset.SCENE_COUNT)
    return normalized(AUTOENCODER, averaged(folder / "autoencoder.pt"), images[:NORMALIZATION_IMAGES])


def normalized(spec: AutoencoderSpec, weights: dict[str, Tensor], images: Images) -> VAE:
    """Load an autoencoder whose latents of `images`, times `scale`, have mean 0 and variance 1 per channel."""
    model = AutoencoderKL(spec)
    model.load_state_dict(weights)
    model.to(compute_device()).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    vae = VAE(model, spec)
    z = vae.encode(dataset.to_floats(images))
    mean, std = z.mean((0, 2, 3)).to(compute_device()), z.std((0, 2, 3)).to(compute_device()) * spec.scale
    if max(mean.abs().max(), (std - 1).abs().max()) < 1e-2:  # unpacked: normalized already, up to float16 rounding
        return vae
    normalize_latents(model, mean, std)
    return vae


def normalize_latents(model: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Fold (z - mean) / std into the last encoder layer, and its inverse into the first decoder layer.

    encode: (z - mean) / std; decode: W (std z + mean) + b; log-variance: - 2 log std
    """
    before, after, channels = model.quant_conv, model.post_quant_conv, len(mean)
    bias(after).add_(after.weight[:, :, 0, 0] @ mean)
    after.weight *= std[None, :, None, None]
    before.weight[:channels] /= std[:, None, None, None]
    bias(before)[:channels] = (bias(before)[:channels] - mean) / std
    bias(before)[channels:] -= 2 * std.log()
