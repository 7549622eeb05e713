"""What a user should know of a run that goes on: valid settings that do nothing, each in one line of the log.

In ComfyUI the node that says it shows it too (backends/comfyui/on_node.py).
"""

from __future__ import annotations

import logging
import math

from torch import Tensor

from .types import Sampling

TIMESTEPS = 1000
FROM_FIRST = ("ldm", "ddim_uniform")  # schedulers that step through range(0, 1000, 1000 // steps)
MANY = 1.25  # times the steps that were asked for


def notice(sentence: str) -> None:
    """Log a sentence: what does nothing or was left out, and what to do."""
    logging.getLogger("sd2_family").warning("%s", sentence)


def mask_notices(mask: Tensor, images: int) -> None:
    """Name what is odd about the masks [B, H, W] of so many images: empty or full ones, a count that does not fit."""
    hole = mask >= 0.5
    empty = [str(number) for number, one in enumerate(hole, 1) if not one.any()]
    if not mask.any():
        notice("the mask is empty, so nothing is repainted; draw one, or load a file with transparency")
    elif len(empty) == len(mask):
        notice(
            f"the mask never reaches 0.5 (its maximum is {float(mask.max()):.2f}), so nothing is repainted; draw it "
            "stronger, or lower the threshold of SD2 Mask Preprocess"
        )
    elif empty:
        which = f"masks {', '.join(empty)} of {len(mask)} are" if empty[1:] else f"mask {empty[0]} of {len(mask)} is"
        notice(f"{which} empty or below 0.5 everywhere, so nothing is repainted there; draw what is missing")
    elif hole.all():
        notice("the mask covers the whole image, so all of it is repainted; invert the mask if you meant to keep it")
    if len(mask) > images > 1:
        notice(f"there are {len(mask)} masks for {images} images, so the last {len(mask) - images} are not used")
    elif images > len(mask) > 1:
        notice(f"there are {len(mask)} masks for {images} images, so they are used again from the first")


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
