"""Inpainting with a model that was not trained for it: Langevin steps at each noise level.

"LanPaint", Zheng et al. 2025, arXiv:2502.03491. Notation: x where the mask is 1 and y where it is 0, both at noise
level sigma; y0 is the latent that is kept, and x0, y0' are what the model makes of (x, y). Its score is
(x0 - x) / sigma^2. The steps let x and y adapt to each other, which replacing y alone does not:

    dx = (x0 - x) / sigma^2 dt + sqrt(2) dW
    dy = ((1 + lambda) (y0 - y) - lambda (y0' - y)) / sigma^2 dt + sqrt(2) dW     (the bidirectional guided score)

The second term of dy pushes y away from what the model makes of it, so that x has to follow y0.

In place of the paper's underdamped integrator: Leimkuhler and Matthews 2013, doi:10.1093/amrx/abs010. Its steps have a
mean of two noises, each used in two steps, and the right variance at any stable step size where the score is linear.
So the steps can be large: dt = sigma^2 for x and sigma^2 / (1 + lambda) for y, which is stiffer by that factor. Then

    x <- x0 + sigma n,   y <- y0 - lambda / (1 + lambda) (y0' - y) + sigma / sqrt(1 + lambda) n
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .masked import MaskAt, same_mask
from .solver import Callback, Denoise, NoiseSampler, Step

LAMBDA = 4.0
LOWEST = 0.3  # the noise level below which there are no steps


def inner_steps_at(sigma: float, steps: int) -> int:
    """Return how many of `steps` are taken at a noise level."""
    return steps if sigma >= LOWEST else 0


@dataclass(frozen=True, kw_only=True)
class Langevin:
    """`steps` steps at each noise level down to LOWEST: the `settle` of a solver.

    denoise: without guidance, since a guided x0 is the score of no distribution, and steps along it drift. latent:
    what is kept where mask [B,1,h,w] is 0. noise: fresh noise for each step.
    """

    denoise: Denoise
    latent: Tensor
    mask: Tensor
    noise: NoiseSampler
    steps: int
    mask_at: MaskAt = same_mask
    callback: Callback | None = None

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        count = inner_steps_at(sigma, self.steps)
        if count == 0:
            return x
        mask, noise = self.mask_at(self.mask, sigma), self.noise()
        for i in range(count):
            denoised = self.denoise(x, sigma)
            if self.callback is not None:
                self.callback(Step(i, count, x, denoised, sigma))
            previous, noise = noise, self.noise()
            mean = sigma * (previous + noise) / math.sqrt(2)
            known = self.latent - LAMBDA / (1 + LAMBDA) * (denoised - x) + mean / math.sqrt(1 + LAMBDA)
            x = known.lerp(denoised + mean, mask)
        return x
