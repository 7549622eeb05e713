"""Samplers in sigma space: schedule, parameterization, guidance and solver are separate, joined by two tables.

A run is `sigmas = SCHEDULERS[name](schedule, steps)`, `x = initial_sample(noise, sigmas[0])`,
`x = SAMPLERS[name](denoiser(model, schedule, prediction), x, sigmas, noise=...)`, `final_sample(x, sigmas[-1])`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .ddim import sample_ddim
from .dpmpp import sample_dpmpp_2m, sample_dpmpp_2m_sde, sample_dpmpp_sde
from .euler import sample_euler, sample_euler_ancestral
from .guidance import cfg, guide, rescale
from .heun import sample_heun
from .parameterization import Prediction, denoiser, final_sample, from_x0, initial_sample, to_x0
from .plms import sample_plms
from .schedule import (
    NoiseSchedule,
    Scheduler,
    ddim_uniform,
    exponential,
    karras,
    ldm,
    normal,
    sgm_uniform,
    simple,
    truncate,
)
from .solver import Callback, Denoise, NoiseSampler, Step
from .uni_pc import sample_uni_pc

SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddim": sample_ddim,
    "plms": sample_plms,
    "euler": sample_euler,
    "euler_ancestral": sample_euler_ancestral,
    "heun": sample_heun,
    "dpmpp_2m": sample_dpmpp_2m,
    "dpmpp_2m_sde": sample_dpmpp_2m_sde,
    "dpmpp_sde": sample_dpmpp_sde,
    "uni_pc": sample_uni_pc,
}

SCHEDULERS: dict[str, Scheduler] = {
    "ldm": ldm,
    "normal": normal,
    "karras": karras,
    "exponential": exponential,
    "sgm_uniform": sgm_uniform,
    "simple": simple,
    "ddim_uniform": ddim_uniform,
}

__all__ = [
    "SAMPLERS",
    "SCHEDULERS",
    "Callback",
    "Denoise",
    "NoiseSampler",
    "NoiseSchedule",
    "Prediction",
    "Scheduler",
    "Step",
    "cfg",
    "denoiser",
    "final_sample",
    "from_x0",
    "guide",
    "initial_sample",
    "rescale",
    "to_x0",
    "truncate",
]
