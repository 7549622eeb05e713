"""Sample a latent with a loaded model, outside ComfyUI."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..samplers import (
    SAMPLERS,
    SCHEDULERS,
    Scale,
    Step,
    gradual,
    is_soft,
    run,
    same_mask,
    sampler_options,
    starting_noise,
    step_noise,
    truncate,
)
from .checks import check, check_understood
from .components import Model, compute_device
from .denoiser import guided_denoiser
from .inpaint import guidance
from .latents import mask_of, samples_of
from .notices import inner_steps_notice, notice, sampling_notices
from .progress import progress
from .types import Conditioning, Latent, Sampling

SEED_OFFSET = -10  # ComfyUI's, for the noise on image conditions that its own nodes set
Sample = Callable[..., Tensor]
"""`sample`, or what takes its place inside ComfyUI."""


def sample(
    model: Model,
    sampling: Sampling,
    positive: Conditioning,
    negative: Conditioning,
    *,
    latent: Tensor,
    noise: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """latent and noise [B, 4, h, w], mask [B, 1, h, w] with 1 where to repaint -> latent [B, 4, h, w], unscaled.

    A soft mask repaints gradually: each pixel from a time of its own on.
    """
    sigmas = truncate(SCHEDULERS[sampling.scheduler], model.schedule, sampling.steps, sampling.denoise)
    soft = mask is not None and is_soft(mask) and len(sigmas) > 0
    return sample_over(
        sigmas,
        model,
        sampling,
        positive,
        negative,
        sampler=SAMPLERS[sampling.sampler_name],
        latent=latent,
        noise=noise,
        step_noise=step_noise(latent.to(compute_device()), sampling.seed),
        mask=mask,
        mask_at=gradual(model.schedule, sigmas, model.differential or 1.0) if soft else same_mask,
        # a whole run starts from pure noise, as the reference does, and ignores the latent
        whole=sampling.denoise >= 1,
        options=sampler_options(sampling.sampler_name, sampling.eta),
        scale=guidance(sampling.cfg, mask, model.spec),
    )


@torch.no_grad()
def sample_over(
    sigmas: Tensor,
    model: Model,
    sampling: Sampling,
    positive: Conditioning,
    negative: Conditioning,
    *,
    latent: Tensor,
    noise: Tensor,
    mask: Tensor | None,
    start: Tensor | None = None,
    scale: Scale | None = None,
    **how: Any,  # noqa: ANN401  the other arguments of `run`
) -> Tensor:
    """Sample as `sample` does, over given noise levels [steps + 1]; without any, the latent stays as it is.

    start: x [B, 4, h, w] at the first noise level, where it is not the reference's. scale: of guidance, where that
    differs from place to place.
    """
    check(model.name, model.spec, latent, positive, negative, inner_steps=sampling.inner_steps)
    check_understood(positive, negative)
    if len(sigmas) == 0:
        return latent
    model = model.placed()
    device = compute_device()
    factor = model.spec.autoencoder.scale
    original, mask = latent.to(device) * factor, None if mask is None else mask.to(device)
    guided = partial(
        guided_denoiser,
        model,
        positive,
        negative,
        original,
        mask,
        phi=sampling.cfg_rescale,
        seed=sampling.seed + SEED_OFFSET,
    )
    x = run(
        denoise=guided(scale=scale.to(device) if isinstance(scale, Tensor) else sampling.cfg),
        sigmas=sigmas,
        noise=noise.to(device),
        latent=original,
        start=None if start is None else start.to(device),
        mask=mask,
        inner_steps=sampling.inner_steps,
        unguided=guided(scale=1) if sampling.inner_steps > 0 else None,
        callback=_report,
        **how,
    )
    return x.cpu() / factor


def sample_latent(
    sample: Sample,
    model: Any,  # noqa: ANN401  of the caller's backend
    sampling: Sampling,
    positive: Conditioning,
    negative: Conditioning,
    latent: Latent,
) -> Latent:
    """Sample a LATENT: its noise, its mask, and its size; ValueError where the result is not finite."""
    samples, mask = samples_of(latent), mask_of(latent)
    if mask is not None and not mask.any():
        notice(
            "the latent's mask is empty, so the latent is unchanged; draw a mask, or remove it to sample everything"
        )
        return latent
    sampling_notices(sampling)
    inner_steps_notice(sampling.inner_steps, mask is not None)
    noise = starting_noise(samples, sampling.seed, latent.get("batch_index"))
    sampled = sample(model, sampling, positive, negative, latent=samples, noise=noise, mask=mask)
    if sampled.isnan().any():
        raise ValueError(
            f"{sampling.sampler_name} produced NaN after {sampling.steps} steps; load the checkpoint with dtype "
            "bfloat16 or float32 (float16 overflows in the attention of 2.x)"
        )
    return {**latent, "samples": sampled}


def _report(step: Step) -> None:
    progress(step.index + 1, step.total)
