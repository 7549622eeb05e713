"""Samplers in sigma space, built from independent schedules, parameterizations, guidance and solvers.

A run is `run(SAMPLERS[name], denoiser(model, schedule, prediction), SCHEDULERS[name](schedule, steps), noise=...)`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .brownian import BrownianPath
from .ddim import sample_ddim
from .dpmpp import sample_dpmpp_2m, sample_dpmpp_2m_sde, sample_dpmpp_3m_sde, sample_dpmpp_sde
from .er_sde import sample_er_sde
from .euler import sample_euler, sample_euler_ancestral
from .guidance import Scale, cfg, guide, is_guided, rescale
from .heun import sample_heun
from .lcm import sample_lcm
from .masked import MaskAt, gradual, hold_unmasked, is_soft, keep_unmasked, same_mask
from .noise import starting_noise, step_noise
from .parameterization import Prediction, denoiser, final_sample, from_x0, initial_sample, to_x0
from .plms import sample_plms
from .run import Sampler, run, sampler_options
from .schedule import (
    DISTILLED,
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
    "DISTILLED",
    "SAMPLERS",
    "SCHEDULERS",
    "BrownianPath",
    "Callback",
    "Denoise",
    "MaskAt",
    "NoiseSampler",
    "NoiseSchedule",
    "Prediction",
    "Sampler",
    "Scale",
    "Scheduler",
    "Step",
    "cfg",
    "denoiser",
    "final_sample",
    "from_x0",
    "gradual",
    "guide",
    "hold_unmasked",
    "initial_sample",
    "is_guided",
    "is_soft",
    "keep_unmasked",
    "rescale",
    "run",
    "same_mask",
    "sample_dpmpp_3m_sde",
    "sample_er_sde",
    "sample_lcm",
    "sampler_options",
    "starting_noise",
    "step_noise",
    "to_x0",
    "truncate",
]
