"""The sampling run, from noise to a sample, for every caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from .masked import MaskAt, hold_unmasked, keep_unmasked, same_mask
from .parameterization import final_sample, initial_sample
from .solver import Callback, Denoise, NoiseSampler

Sampler = Callable[..., Tensor]
"""sample_x(denoise, x, sigmas, *, noise, callback, **options) -> x at the last sigma: a value of `SAMPLERS`."""


def run(
    sampler: Sampler,
    denoise: Denoise,
    sigmas: Tensor,
    *,
    noise: Tensor,
    step_noise: NoiseSampler,
    latent: Tensor | None = None,
    whole: bool = True,
    start: Tensor | None = None,
    mask: Tensor | None = None,
    mask_at: MaskAt = same_mask,
    leave_noise: bool = False,
    callback: Callback | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Tensor:
    """Sample over sigmas [steps + 1] from noise [B,C,h,w]; returns the scaled latent [B,C,h,w].

    latent: the start of the run unless it is `whole`, and the content kept outside `mask` [B,1,h,w].
    start: x at the first sigma, in place of `initial_sample`.
    leave_noise: return x at the last sigma for another sampler to continue. options: passed to the sampler.
    """
    if start is None:
        start = initial_sample(noise, float(sigmas[0]), None if whole else latent)
    if mask is not None and latent is not None:
        denoise = keep_unmasked(denoise, latent, noise, mask, mask_at)
    x = sampler(denoise, start, sigmas, noise=step_noise, callback=callback, **options)
    if leave_noise:
        return x
    x = final_sample(x, float(sigmas[-1]))
    return x if mask is None or latent is None else hold_unmasked(x, latent, mask)


def sampler_options(sampler_name: str, eta: float) -> dict[str, float]:
    """Return the sampler's options: eta for ddim, which the reference sets to 1 for inpainting and to 0 otherwise."""
    return {"eta": eta} if sampler_name == "ddim" else {}
