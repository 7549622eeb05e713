"""What a user should know of a run that goes on: valid settings that do nothing, each in one line of the log."""

from __future__ import annotations

import logging
import math

from .types import Sampling

TIMESTEPS = 1000
FROM_FIRST = ("ldm", "ddim_uniform")  # schedulers that step through range(0, 1000, 1000 // steps)
MANY = 1.25  # times the steps that were asked for


def notice(sentence: str) -> None:
    """Log a sentence: what does nothing or was left out, and what to do."""
    logging.getLogger("sd2_family").warning("%s", sentence)


def sampling_notices(sampling: Sampling) -> None:
    """Name the widgets of SD2 KSampler that do nothing with these values of the others."""
    schedule_notices(sampling.scheduler, sampling.steps, sampling.denoise)
    eta_notice(sampling.sampler_name, sampling.eta)
    if sampling.cfg == 1 and sampling.cfg_rescale > 0:
        notice(f"cfg_rescale {sampling.cfg_rescale:g} has no effect at cfg 1; raise cfg, or set it to 0")
    if sampling.cfg == 0:
        notice("cfg is 0, so the positive prompt has no effect; set it to 1 to use the positive prompt alone")


def eta_notice(sampler_name: str, eta: float) -> None:
    """Name an eta that the sampler does not take."""
    if eta > 0 and sampler_name != "ddim":
        notice(f"eta {eta:g} has no effect with {sampler_name}; choose ddim, or set it to 0")


def inner_steps_notice(inner_steps: int, masked: bool) -> None:
    """Name inner steps that have no mask to work on."""
    if inner_steps > 0 and not masked:
        notice(
            f"inner_steps {inner_steps} has no effect on a latent without a mask; add one with SD2 VAE Encode (for "
            "Inpainting) or Set Latent Noise Mask, or set it to 0"
        )


def schedule_notices(scheduler: str, steps: int, denoise: float) -> None:
    """Name a step count or denoise that leaves nothing to do, or that is far from what is done."""
    partial = int(denoise * steps)  # of the ldm scheduler
    if denoise == 0:
        notice("denoise is 0, so the latent is unchanged; raise it to sample")
    elif scheduler in FROM_FIRST and steps == 1:
        notice(f"{scheduler} with 1 step starts at the lowest noise level; use more steps, or scheduler normal")
    elif scheduler == "ldm" and denoise < 1 and partial <= 1:
        notice(
            f"denoise {denoise:g} with {steps} steps leaves only the last step of ldm, which changes almost nothing; "
            f"use {math.ceil(2 / denoise)} steps or more, or scheduler normal"
        )
    elif scheduler in FROM_FIRST and (taken := _taken(steps)) > MANY * steps:
        notice(f"{scheduler} divides {TIMESTEPS} timesteps evenly, so that {steps} steps become {taken}")


def _taken(steps: int) -> int:
    return math.ceil(TIMESTEPS / max(TIMESTEPS // steps, 1))
