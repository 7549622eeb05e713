"""DDIM, denoising diffusion implicit models."""

from __future__ import annotations

from torch import Tensor

from .euler import sample_euler_ancestral
from .solver import Callback, Denoise, NoiseSampler, Settle, unsettled


def sample_ddim(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: NoiseSampler,
    settle: Settle = unsettled,
    callback: Callback | None = None,
    eta: float = 0.0,
) -> Tensor:
    """DDIM: Song et al., arXiv:2010.02502 eq. 12; with the `ldm` spacing, the reference DDIMSampler.

    In x = x_t / sqrt(a), the step sqrt(a') x0 + sqrt(1 - a' - s^2) eps + s z is x0 + sigma_down eps + sigma_up z,
    an ancestral Euler step.
    """
    return sample_euler_ancestral(denoise, x, sigmas, noise=noise, settle=settle, callback=callback, eta=eta)
