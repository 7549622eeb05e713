"""Random noise of a sampling run, drawn on the CPU so that a seed gives the same image on every device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def starting_noise(latent: Tensor, seed: int, batch_index: Sequence[int] | None = None) -> Tensor:
    """Draw unit normal noise for latent [B, C, h, w], by ComfyUI's rule.

    batch_index: the index of each item in its original batch; item i gets the i-th draw, whatever the batch contains.
    """
    generator = torch.Generator().manual_seed(seed)
    if batch_index is None:
        return torch.randn(latent.shape, generator=generator)
    draws = [torch.randn(1, *latent.shape[1:], generator=generator) for _ in range(max(batch_index) + 1)]
    return torch.cat([draws[index] for index in batch_index])


def step_noise(latent: Tensor, seed: int) -> Callable[[], Tensor]:
    """Return a function that draws noise like `latent`, continuing after the starting noise of this seed."""
    generator = torch.Generator().manual_seed(seed)
    torch.randn(latent.shape, generator=generator)
    return lambda: torch.randn(latent.shape, generator=generator).to(latent)
