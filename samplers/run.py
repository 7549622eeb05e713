"""The sampling run, from noise to a sample, for every caller."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

from .langevin import Langevin, inner_steps_at
from .masked import MaskAt, hold_unmasked, keep_known, keep_unmasked, same_mask
from .parameterization import final_sample, initial_sample
from .solver import Callback, Denoise, NoiseSampler, Settle, Step, intervals, unsettled

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
    inner_steps: int = 0,
    unguided: Denoise | None = None,
    leave_noise: bool = False,
    callback: Callback | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Tensor:
    """Sample over sigmas [steps + 1] from noise [B,C,h,w]; returns the scaled latent [B,C,h,w].

    latent: the start of the run unless it is `whole`, and the content kept outside `mask` [B,1,h,w].
    start: x at the first sigma, in place of `initial_sample`.
    inner_steps: of `Langevin` before each step, where there is a mask; `callback` then counts them as well. unguided:
    their `denoise`, where `denoise` is guided.
    leave_noise: return x at the last sigma for another sampler to continue. options: passed to the sampler.
    """
    if start is None:
        start = initial_sample(noise, float(sigmas[0]), None if whole else latent)
    settle: Settle = unsettled
    if mask is not None and latent is not None and inner_steps > 0:
        first = float(sigmas[0])
        start = (latent + first * noise).lerp(start, mask_at(mask, first))
        callback = callback and _counted(callback, sigmas, inner_steps)
        settle = Langevin(
            denoise=unguided or denoise,
            latent=latent,
            mask=mask,
            mask_at=mask_at,
            noise=step_noise,
            steps=inner_steps,
            callback=callback,
        )
        denoise = keep_known(denoise, latent, mask, mask_at)
    elif mask is not None and latent is not None:
        denoise = keep_unmasked(denoise, latent, noise, mask, mask_at)
    x = sampler(denoise, start, sigmas, noise=step_noise, settle=settle, callback=callback, **options)
    if leave_noise:
        return x
    x = final_sample(x, float(sigmas[-1]))
    return x if mask is None or latent is None else hold_unmasked(x, latent, mask)


def _counted(callback: Callback, sigmas: Tensor, inner_steps: int) -> Callback:
    """Number all steps that are reported, with the inner ones among them."""
    numbers = itertools.count()
    total = sum(1 + inner_steps_at(sigma, inner_steps) for sigma, _ in intervals(sigmas))

    def counted(step: Step) -> None:
        callback(replace(step, index=next(numbers), total=total))

    return counted


def sampler_options(sampler_name: str, eta: float) -> dict[str, float]:
    """Return the sampler's options: eta for ddim, which the reference sets to 1 for inpainting and to 0 otherwise."""
    return {"eta": eta} if sampler_name == "ddim" else {}
