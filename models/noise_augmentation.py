"""unCLIP's noise on CLIP image embeddings (Ramesh et al. 2022, arXiv:2204.06125), as Stable unCLIP applies it.

Attribute paths are the checkpoint's keys after `noise_augmentor.`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .unet import timestep_embedding

LEVELS = 1000
STATISTICS_FILES = ("ViT-L-14_stats.th", "ViT-L-14_stats.safetensors")


def squared_cosine_betas(steps: int) -> Tensor:
    """squaredcos_cap_v2 (arXiv:2102.09672): beta_i = min(1 - f(i + 1) / f(i), 0.999), float64 [steps].

    f(i) = cos^2((i / steps + 0.008) / 1.008 * pi / 2)
    """
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


def noise_tables(betas: Tensor) -> dict[str, Tensor]:
    """Compute the noise tables in the authors' files, by their names there: float32 [steps] each."""
    alphas_cumprod = (1 - betas).cumprod(0)
    tables = {
        "betas": betas,
        "alphas_cumprod": alphas_cumprod,
        "alphas_cumprod_prev": torch.cat([torch.ones(1, dtype=betas.dtype), alphas_cumprod[:-1]]),
        "sqrt_alphas_cumprod": alphas_cumprod.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alphas_cumprod).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - alphas_cumprod).log(),
        "sqrt_recip_alphas_cumprod": (1 / alphas_cumprod).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / alphas_cumprod - 1).sqrt(),
    }
    return {name: table.float() for name, table in tables.items()}


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and standard deviation of a model's training image embeddings, float32 [dim] each."""

    mean: Tensor
    std: Tensor
    source: str  # for the report


class NoiseAugmentation(nn.Module):
    """Add noise of level 0..999 to image embeddings and append an embedding of the level of the same width."""

    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    data_mean: Tensor
    data_std: Tensor

    def __init__(self, dim: int, statistics: Statistics | None = None) -> None:
        super().__init__()
        for name, table in noise_tables(squared_cosine_betas(LEVELS)).items():
            self.register_buffer(name, table)
        # noise is added to embeddings scaled to mean 0 and deviation 1; the official files lack these statistics
        mean, std = (torch.zeros(dim), torch.ones(dim)) if statistics is None else (statistics.mean, statistics.std)
        self.register_buffer("data_mean", mean, persistent=False)
        self.register_buffer("data_std", std, persistent=False)

    @property
    def dim(self) -> int:
        """The width of the embeddings."""
        return len(self.data_mean)

    def forward(self, embeddings: Tensor, levels: Tensor, noise: Tensor) -> Tensor:
        """embeddings and unit normal noise [B, dim], levels int64 [B] in 0..999 -> class conditions [B, 2 * dim].

        The first half is a sample of q(z_t | z_0) in the units of the data, the second the sinusoidal embedding of t.
        """
        x = (embeddings - self.data_mean) / self.data_std
        x = self.sqrt_alphas_cumprod[levels, None] * x + self.sqrt_one_minus_alphas_cumprod[levels, None] * noise
        return torch.cat([x * self.data_std + self.data_mean, timestep_embedding(levels, self.dim)], dim=1)


def read_statistics(folder: Path, dim: int) -> Statistics | None:
    """Read the statistics file next to a checkpoint: the authors' pickled pair, or tensors `mean` and `std`."""
    path = next((folder / name for name in STATISTICS_FILES if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
            mean, std = tensors["mean"], tensors["std"]
        else:
            mean, std = torch.load(path, map_location="cpu", weights_only=True)
        statistics = Statistics(mean.float().flatten(), std.float().flatten(), f"{path.name} in the same folder")
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(
            f"{path.name} does not contain the mean and standard deviation of image embeddings; download it again"
        ) from error
    if not len(statistics.mean) == len(statistics.std) == dim:
        raise ValueError(
            f"{path.name} is for {len(statistics.mean)}-dim image embeddings, but the checkpoint in the same folder "
            f"expects {dim}; move or replace it"
        )
    return statistics
