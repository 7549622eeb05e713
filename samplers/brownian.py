"""Step noise taken from one Brownian motion, so that overlapping steps see the same path."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

DIGITS = 6  # of a noise level; the tree ends there
POOL = 24  # words of entropy mixed into each seed


class BrownianPath:
    """A Brownian motion W over the noise levels from `low` to `high`, found by halving that interval.

    The tree of torchsde's BrownianTree (Li et al., arXiv:2001.01328, section 4) with the same seeds: W at the middle
    m of [a, b] is normal with mean W(a) + (m - a) / (b - a) (W(b) - W(a)) and variance (m - a) (b - m) / (b - a).
    """

    def __init__(self, like: Tensor, low: float, high: float, seed: int, device: torch.device | str = "cpu") -> None:
        """like: what the noise is shaped like and moved to. device: where it is drawn."""
        self.like, self.seed, self.device = like, seed, device
        self.low, self.high = round(low, DIGITS), round(high, DIGITS)
        self.whole = self._draw(()) * math.sqrt(high - low)

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        """Return the unit normal noise of the step down from sigma, (W(sigma_next) - W(sigma)) / sqrt(their gap)."""
        step = self._at(sigma_next) - self._at(sigma)
        return (step / math.sqrt(sigma - sigma_next)).to(self.like)

    def middle(self, sigma: float, sigma_next: float) -> float:
        """Return sqrt(sigma * sigma_next) as ComfyUI rounds it.

        It computes in float32, which is coarser than the tree at a large sigma: the exact value has another noise.
        """
        here, there = (torch.tensor(level).log().neg() for level in (sigma, sigma_next))
        return float((here + 0.5 * (there - here)).neg().exp())

    def _at(self, sigma: float) -> Tensor:
        """W(sigma) - W(low), float64."""
        sigma = min(max(round(sigma, DIGITS), self.low), self.high)
        start, end, across = self.low, self.high, self.whole
        below = torch.zeros_like(across)
        key = depth = 0  # the interval's number among those of its depth
        while start < sigma < end:
            middle = round(0.5 * (start + end), DIGITS)
            left, right, length = middle - start, end - middle, end - start
            half = (left / length) * across + math.sqrt(left * right / length) * self._draw((key, depth))
            key, depth = 2 * key, depth + 1
            if sigma < middle:
                end, across = middle, half
            else:
                start, across, below, key = middle, across - half, below + half, key + 1
        return below + across if sigma >= end else below

    def _draw(self, place: Sequence[int]) -> Tensor:
        """Unit normal noise of one interval of the tree, float64."""
        entropy = np.random.SeedSequence(self.seed, spawn_key=place, pool_size=POOL)
        generator = torch.Generator(self.device).manual_seed(int(entropy.generate_state(1)[0]))
        noise = torch.randn(self.like.shape, dtype=torch.float32, device=self.device, generator=generator)
        return noise.double()
