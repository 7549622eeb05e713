"""The denoising objective: random timesteps and captions, and the error of the predicted noise or velocity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..models.specs import Prediction
from ..pipeline.components import compute_device
from ..samplers.schedule import NoiseSchedule
from .latent_cache import tokens_of
from .networks import TextToImage

SCHEDULE = NoiseSchedule()
CAPTION_DROPOUT = 0.1  # trains the unconditional side of classifier-free guidance
LOG_SIGMA = 0.3, 1.2  # mean and standard deviation of the log-normal that noise levels are drawn from
MAX_LOSS_WEIGHT = 10.0


def denoising_loss(
    model: TextToImage,
    x0: Tensor,
    t: Tensor,
    tokens: Tensor,
    prediction: Prediction,
    noise: torch.Generator,
    *,
    concat: Sequence[Tensor] = (),
    y: Tensor | None = None,
    schedule: NoiseSchedule = SCHEDULE,
) -> Tensor:
    """Return the mean squared error of the predicted noise, or velocity (arXiv:2006.11239, 2202.00512), at t [B].

    An error in the noise is weighted by its effect on the velocity, (1 + sigma^2) |eps - eps'|^2, up to a limit.
    x0: [B, 4, h, w]; concat: [B, C, h, w], inputs beside the noisy latents; y: class condition.
    """
    where = compute_device()
    a = schedule.alphas_cumprod[t].float().to(where)[:, None, None, None]
    x0, eps = x0.to(where), torch.randn(x0.shape, generator=noise, device=where)
    # v = sqrt(a) eps - sqrt(1 - a) x0
    target = eps if prediction == "epsilon" else a.sqrt() * eps - (1 - a).sqrt() * x0
    # x_t = sqrt(a) x0 + sqrt(1 - a) eps
    inputs = [a.sqrt() * x0 + (1 - a).sqrt() * eps, *(extra.to(where) for extra in concat)]
    x = torch.cat(inputs, dim=1).contiguous(memory_format=torch.channels_last)
    predicted = model(x, t.to(where), tokens.to(where), None if y is None else y.to(where))
    error: Tensor = (predicted - target).square().mean((1, 2, 3))
    # 1 / a = 1 + sigma^2
    weight = (1 / a).clamp(max=MAX_LOSS_WEIGHT).flatten() if prediction == "epsilon" else torch.ones_like(error)
    return (weight * error).mean()


def random_timesteps(
    choices: np.random.Generator,
    count: int,
    schedule: NoiseSchedule = SCHEDULE,
    log_sigma: tuple[float, float] = LOG_SIGMA,
) -> Tensor:
    """Draw timesteps, int64 [count], whose sigma = sqrt((1 - a) / a) lies nearest above draws of a log-normal.

    Most lie around the noise level that decides shapes (arXiv:2206.00364, table 1).
    """
    sigmas = schedule.sigmas.float()
    quantiles = (choices.permutation(count) + choices.random(count)) / count  # stratified: one draw from each part
    mean, deviation = log_sigma
    drawn = torch.exp(mean + deviation * torch.special.ndtri(torch.from_numpy(quantiles))).float()
    return torch.searchsorted(sigmas, drawn).clamp(max=len(sigmas) - 1)


def random_captions(
    tokens: Tensor, index: Tensor, choices: np.random.Generator, dropout: float = CAPTION_DROPOUT
) -> Tensor:
    """Draw one caption for each scene of `index`, of tokens [N, captions, 77]: int64 [B, 77], some of them empty."""
    chosen = tokens[index, torch.from_numpy(choices.integers(0, tokens.shape[1], len(index)))]
    dropped = torch.from_numpy(choices.random(len(index)) < dropout)
    return torch.where(dropped[:, None], tokens_of(""), chosen)
