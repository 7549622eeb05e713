"""Generate images with a demo checkpoint: ddim on the ldm schedule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..models.checkpoint import Checkpoint
from ..samplers import SAMPLERS, SCHEDULERS, Denoise, NoiseSchedule, cfg, denoiser, final_sample, initial_sample
from . import dataset
from .latent_cache import BATCH_SIZE, masked_latents, shrink_masks, tokens_of
from .trainer import device
from .trials import Trial

STEPS = 30


@torch.inference_mode()
def inpaint(model: Checkpoint, trials: Sequence[Trial], *, scale: float, steps: int = STEPS, seed: int = 0) -> Tensor:
    """Repaint the mask of each trial to its prompt: images [N, 3, H, W] in -1..1."""
    images = dataset.to_tensor(np.stack([trial.image for trial in trials]))
    masks = torch.from_numpy(np.stack([trial.mask for trial in trials]))[:, None]
    spec = model.spec.autoencoder
    masked = masked_latents(model.autoencoder, spec.scale, images, masks)
    concat = torch.cat([shrink_masks(masks, spec.factor), masked], dim=1)
    prompts = [trial.prompt for trial in trials]
    painted = generate(model, prompts, concat.shape[-1], concat=concat, scale=scale, steps=steps, seed=seed)
    return torch.where(masks > 0.5, painted, images)


@torch.inference_mode()
def generate(
    model: Checkpoint,
    prompts: Sequence[str],
    side: int,
    *,
    scale: float,
    steps: int = STEPS,
    seed: int = 0,
    concat: Tensor | None = None,
    y: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Generate images [N, 3, H, W] in -1..1 for N prompts, from latents of `side`, with guidance `scale`.

    concat: [N, C, side, side], inputs beside the noisy latents; y: class conditions of both sides of the guidance.
    """
    texts = model.text(torch.stack([tokens_of(prompt) for prompt in prompts]).to(device()))
    empty = model.text(tokens_of("")[None].to(device())).expand_as(texts)
    schedule = NoiseSchedule(beta_start=model.spec.beta_start, beta_end=model.spec.beta_end)
    positive, negative = y or (None, None)
    denoise = guided(
        conditioned(model, schedule, texts, concat, positive),
        conditioned(model, schedule, empty, concat, negative),
        scale,
    )
    # drawn on the CPU, so that a seed gives the same image on every device
    noise = torch.randn(len(prompts), 4, side, side, generator=torch.Generator().manual_seed(seed)).to(device())
    return decode(model, run_ddim(denoise, noise, SCHEDULERS["ldm"](schedule, steps)))


def conditioned(
    model: Checkpoint, schedule: NoiseSchedule, context: Tensor, concat: Tensor | None, y: Tensor | None
) -> Denoise:
    """Return the denoiser of one side of the guidance."""
    inputs = [] if concat is None else [concat.to(device())]
    condition = None if y is None else y.to(device())

    def predict(x: Tensor, t: Tensor) -> Tensor:
        predicted: Tensor = model.unet(torch.cat([x, *inputs], dim=1), t, context, condition)
        return predicted

    return denoiser(predict, schedule, model.prediction)


def guided(positive: Denoise, negative: Denoise, scale: float) -> Denoise:
    """Combine two denoisers by classifier-free guidance."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        if scale == 1:
            return positive(x, sigma)
        return cfg(positive(x, sigma), negative(x, sigma), scale)

    return denoise


def run_ddim(denoise: Denoise, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Denoise from `noise` to scaled latents."""
    x = initial_sample(noise, float(sigmas[0]))
    x = SAMPLERS["ddim"](denoise, x, sigmas, noise=lambda: torch.randn_like(noise))
    return final_sample(x, float(sigmas[-1]))


def decode(model: Checkpoint, latents: Tensor) -> Tensor:
    """Decode scaled latents to images [N, 3, H, W] in -1..1, a few at a time."""
    parts = torch.split(latents / model.spec.autoencoder.scale, BATCH_SIZE)
    return torch.cat([model.autoencoder.decode(part) for part in parts]).cpu().clamp(-1, 1)
