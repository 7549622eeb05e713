"""The phase `autoencoder`: images to latents and back."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..models.autoencoder import AutoencoderKL
from ..models.specs import AutoencoderSpec
from . import dataset
from .dataset import Images
from .latent_cache import encode
from .networks import AUTOENCODER, bias, new_autoencoder
from .random_crops import random_crops
from .trainer import Plan, averaged, device, train

KL_WEIGHT = 1e-4
NORMALIZATION_IMAGES = 256


def train_autoencoder(folder: Path, plan: Plan) -> None:
    images, _ = dataset.scenes(folder, dataset.SCENE_COUNT)
    unseen, _ = dataset.scenes(folder, dataset.VALIDATION_COUNT, dataset.FIRST_UNSEEN)
    torch.manual_seed(plan.seed)
    loss = partial(autoencoder_loss, images, plan.batch_size)
    train(new_autoencoder(AUTOENCODER), loss, plan, folder / "autoencoder.pt", partial(quality, unseen))


def autoencoder_loss(
    images: Images, batch_size: int, model: AutoencoderKL, choices: np.random.Generator, noise: torch.Generator
) -> Tensor:
    """Return the coding loss of random crops."""
    _, crops = random_crops(images, batch_size, choices)
    return coding_loss(model, dataset.to_tensor(crops).to(device()), noise)[0]


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


@torch.inference_mode()
def psnr(images: Images, model: AutoencoderKL) -> float:
    """Return the mean PSNR in dB of images encoded, decoded and rounded to 8 bits."""
    errors = []
    for part in dataset.batches(images, 16):
        decoded = (
            model.decode(model.encode(dataset.to_tensor(part).to(device()))).clamp(-1, 1).add(1).mul(127.5).round()
        )
        errors.append((decoded.permute(0, 2, 3, 1).cpu() - torch.tensor(part).float()).square().mean((1, 2, 3)))
    return float(10 * torch.log10(255**2 / torch.cat(errors)).mean())


def quality(images: Images, model: AutoencoderKL) -> str:
    return f"PSNR {psnr(images, model):.2f} dB"


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """Load the trained autoencoder with normalized latents."""
    images, _ = dataset.scenes(folder, dataset.SCENE_COUNT)
    return normalized(AUTOENCODER, averaged(folder / "autoencoder.pt"), images[:NORMALIZATION_IMAGES])


def normalized(spec: AutoencoderSpec, weights: dict[str, Tensor], images: Images) -> AutoencoderKL:
    """Load an autoencoder whose latents of `images`, times `scale`, have mean 0 and variance 1 per channel."""
    model = AutoencoderKL(spec)
    model.load_state_dict(weights)
    model.to(device()).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    z = encode(model, 1.0, dataset.to_tensor(images))
    mean, std = z.mean((0, 2, 3)).to(device()), z.std((0, 2, 3)).to(device()) * spec.scale
    if max(mean.abs().max(), (std - 1).abs().max()) < 1e-2:  # unpacked: normalized already, up to float16 rounding
        return model
    normalize_latents(model, mean, std)
    return model


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
