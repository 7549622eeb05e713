"""Convert a network's prediction (noise or velocity) to a denoised sample, in sigma space.

Solvers see x = x0 + sigma * noise; the network sees x_t = sqrt(a) x0 + sqrt(1 - a) noise = x / sqrt(1 + sigma^2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from .schedule import NoiseSchedule
from .solver import Denoise

Prediction = Literal["epsilon", "v_prediction"]


def denoiser(model: Callable[[Tensor, Tensor], Tensor], schedule: NoiseSchedule, prediction: Prediction) -> Denoise:
    """Wrap model(x_t [B,C,h,w], t [B] float32) -> output [B,C,h,w] as denoise(x, sigma) -> x0.

    t is rounded to the nearest integer timestep, as in training and in ComfyUI.
    """

    def denoise(x: Tensor, sigma: float) -> Tensor:
        t = torch.full((len(x),), float(schedule.trained_timestep(sigma)), device=x.device)
        return to_x0(model(x / math.hypot(1, sigma), t), x, sigma, prediction)

    return denoise


def to_x0(output: Tensor, x: Tensor, sigma: float, prediction: Prediction) -> Tensor:
    """Convert a network output at x to a denoised sample."""
    if prediction == "epsilon":
        # eps = (x - x0) / sigma
        return x - sigma * output
    # v = sqrt(a) eps - sqrt(1 - a) x0, arXiv:2202.00512 appendix D; hence x0 = x / (1 + sigma^2) - c v
    return x / (1 + sigma**2) - output * (sigma / math.hypot(1, sigma))


def from_x0(x0: Tensor, x: Tensor, sigma: float, prediction: Prediction) -> Tensor:
    """Convert a denoised sample to a network output, the inverse of `to_x0`; sigma must not be 0."""
    if prediction == "epsilon":
        return (x - x0) / sigma
    return (x / (1 + sigma**2) - x0) * (math.hypot(1, sigma) / sigma)


def initial_sample(noise: Tensor, sigma: float, latent: Tensor | None = None) -> Tensor:
    """Return x at the first sigma: the latent noised to that level, or pure noise if there is no latent.

    The reference starts from x_t = noise for any a; that is x = sqrt(1 + sigma^2) noise here.
    """
    return noise * math.hypot(1, sigma) if latent is None else latent + sigma * noise


def final_sample(x: Tensor, sigma: float) -> Tensor:
    """Return the sample after the last sigma: x itself if sigma is 0, else x_t, as in the reference."""
    return x / math.hypot(1, sigma)
