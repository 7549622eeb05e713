"""ComfyUI's KSampler outside ComfyUI: its noise levels, its noise and its start, which differ from SD2 KSampler's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...pipeline import sample as pipeline
from ...pipeline.components import Model, compute_device
from ...pipeline.images import fit_batch
from ...pipeline.notices import notice
from ...pipeline.types import Conditioning, Latent, Sampling
from ...samplers import (
    SAMPLERS,
    BrownianPath,
    Sampler,
    gradual,
    initial_sample,
    same_mask,
    sample_dpmpp_3m_sde,
    sample_er_sde,
    sample_lcm,
    starting_noise,
)
from .core_schedules import SCHEDULERS

UNI_PC_END = 0.001  # the noise level at which ComfyUI ends UniPC, in place of 0
UNI_PC_ORDER = 3


@dataclass(frozen=True)
class CoreSampler:
    """How ComfyUI runs one of its samplers."""

    run: Sampler
    options: Mapping[str, Any] = field(default_factory=dict)
    path: bool = False  # its noise is that of a Brownian motion
    on_gpu: bool = False  # which is drawn where the model runs
    uni_pc: bool = False  # without the last noise level but one, and down to `UNI_PC_END`
    own_noise: bool = False  # another noise for the area that a mask keeps


SDE, TWO_CALLS, UNI_PC = SAMPLERS["dpmpp_2m_sde"], SAMPLERS["dpmpp_sde"], SAMPLERS["uni_pc"]
CORE_SAMPLERS: dict[str, CoreSampler] = {
    "euler": CoreSampler(SAMPLERS["euler"]),
    "euler_ancestral": CoreSampler(SAMPLERS["euler_ancestral"]),
    "heun": CoreSampler(SAMPLERS["heun"]),
    "dpmpp_sde": CoreSampler(TWO_CALLS, path=True),
    "dpmpp_sde_gpu": CoreSampler(TWO_CALLS, path=True, on_gpu=True),
    "dpmpp_2m": CoreSampler(SAMPLERS["dpmpp_2m"]),
    "dpmpp_2m_sde": CoreSampler(SDE, path=True),
    "dpmpp_2m_sde_gpu": CoreSampler(SDE, path=True, on_gpu=True),
    "dpmpp_3m_sde": CoreSampler(sample_dpmpp_3m_sde, path=True),
    "dpmpp_3m_sde_gpu": CoreSampler(sample_dpmpp_3m_sde, path=True, on_gpu=True),
    "ddpm": CoreSampler(SAMPLERS["euler_ancestral"]),  # the posterior of DDPM is the ancestral step with eta 1
    "lcm": CoreSampler(sample_lcm),
    "er_sde": CoreSampler(sample_er_sde),
    "ddim": CoreSampler(SAMPLERS["euler"], own_noise=True),
    "uni_pc": CoreSampler(UNI_PC, {"linear": True}, uni_pc=True),
    "uni_pc_bh2": CoreSampler(UNI_PC, uni_pc=True),
}
# what comes nearest to ComfyUI's other samplers and schedulers
SAMPLER_INSTEAD = {
    "euler_cfg_pp": "euler",
    "euler_ancestral_cfg_pp": "euler_ancestral",
    "heunpp2": "heun",
    "dpm_2": "heun",
    "dpm_2_ancestral": "euler_ancestral",
    "lms": "dpmpp_2m",
    "dpm_fast": "dpmpp_2m",
    "dpm_adaptive": "dpmpp_2m",
    "dpmpp_2s_ancestral": "dpmpp_sde",
    "dpmpp_2s_ancestral_cfg_pp": "dpmpp_sde",
    "dpmpp_2m_cfg_pp": "dpmpp_2m",
    "dpmpp_2m_sde_heun": "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun_gpu": "dpmpp_2m_sde_gpu",
    "ipndm": "dpmpp_2m",
    "ipndm_v": "dpmpp_2m",
    "deis": "dpmpp_2m",
    "res_multistep": "dpmpp_2m",
    "res_multistep_cfg_pp": "dpmpp_2m",
    "res_multistep_ancestral": "dpmpp_2m_sde",
    "res_multistep_ancestral_cfg_pp": "dpmpp_2m_sde",
    "gradient_estimation": "euler",
    "gradient_estimation_cfg_pp": "euler",
    "seeds_2": "dpmpp_sde",
    "seeds_3": "dpmpp_sde",
    "sa_solver": "dpmpp_2m_sde",
    "sa_solver_pece": "dpmpp_2m_sde",
}
SCHEDULER_INSTEAD = {"beta": "sgm_uniform"}
SAMPLER_NAMES = [*CORE_SAMPLERS, *SAMPLER_INSTEAD]
SCHEDULER_NAMES = [*SCHEDULERS, *SCHEDULER_INSTEAD]


def check_names(sampler_name: str | None, scheduler: str | None) -> None:
    """ValueError for a sampler or a scheduler that only ComfyUI has; None is a name that is not known yet."""
    for kind, name, known, instead in (
        ("sampler_name", sampler_name, CORE_SAMPLERS, SAMPLER_INSTEAD),
        ("scheduler", scheduler, SCHEDULERS, SCHEDULER_INSTEAD),
    ):
        if name is None or name in known:
            continue
        if name not in instead:
            raise ValueError(f"{kind} is {name!r}; choose one of {', '.join(known)}")
        raise ValueError(
            f"{kind} is {name!r}, which needs ComfyUI; choose {instead[name]}, which comes nearest, or run the "
            "workflow with --comfyui or --server"
        )


def noise_levels(model: Model, sampling: Sampling) -> Tensor:
    """The noise levels [steps + 1] of a run, float32, ending at 0; none where `denoise` is 0."""
    core, partial = CORE_SAMPLERS[sampling.sampler_name], sampling.denoise <= 0.9999
    if partial and sampling.denoise <= 0:
        return torch.zeros(0)
    total = int(sampling.steps / sampling.denoise) if partial else sampling.steps
    sigmas = SCHEDULERS[sampling.scheduler](model.schedule, total + core.uni_pc)
    if core.uni_pc:
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    return sigmas[-sampling.steps - 1 :] if partial else sigmas


def sample(
    model: Model,
    sampling: Sampling,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    *,
    steps: slice = slice(None),
    full: bool = True,
    add_noise: bool = True,
) -> Latent:
    """Sample latent_image with one of `CORE_SAMPLERS`.

    steps: those of the run to take. full: end at 0 even where steps are left. add_noise: start from a noised latent.
    """
    check_names(sampling.sampler_name, sampling.scheduler)
    sigmas = noise_levels(model, sampling)
    if steps.stop is not None and steps.stop < len(sigmas) - 1:
        sigmas = sigmas[: steps.stop + 1]
        if full:
            sigmas[-1] = 0
    sigmas = sigmas[steps.start or 0 :]
    if len(sigmas) < 2:
        notice(
            "denoise is 0, so the latent is unchanged; raise it to sample"
            if sampling.denoise <= 0
            else "the run has no steps, so the latent is unchanged; set start_at_step below end_at_step and steps"
        )
        return latent_image
    core = CORE_SAMPLERS[sampling.sampler_name]
    if core.uni_pc and sigmas[-1] == 0:
        sigmas[-1] = UNI_PC_END
    latent: Tensor = latent_image["samples"].float()
    seed, first = sampling.seed, float(sigmas[0])
    noise = starting_noise(latent, seed, latent_image.get("batch_index")) if add_noise else torch.zeros_like(latent)
    scaled = latent * model.spec.autoencoder.scale
    # a whole run starts from the latent as well
    whole = first >= float(model.schedule.sigma_max) * (1 - 1e-5)
    samples = pipeline.sample_over(
        sigmas,
        model,
        sampling,
        positive,
        negative,
        sampler=core.run,
        latent=latent,
        noise=starting_noise(latent, (seed + 1) % 2**64) if core.own_noise else noise,
        step_noise=_step_noise(latent, seed),
        mask=_mask(latent_image.get("noise_mask"), latent),
        start=scaled + initial_sample(noise, first) if whole else initial_sample(noise, first, scaled),
        mask_at=same_mask if model.differential is None else gradual(model.schedule, sigmas, model.differential),
        leave_noise=True,  # x of the last step, whatever its noise level
        options=_options(core, sigmas, latent, seed),
    )
    return {**latent_image, "samples": samples}


def _options(core: CoreSampler, sigmas: Tensor, latent: Tensor, seed: int) -> dict[str, Any]:
    options = dict(core.options)
    if core.uni_pc:
        options["order"] = max(1, min(UNI_PC_ORDER, len(sigmas) - 2))
    if core.path:
        levels, device = sigmas[sigmas > 0], compute_device()
        drawn_on = device if core.on_gpu else "cpu"
        options["path"] = BrownianPath(latent.to(device), float(levels.min()), float(levels.max()), seed, drawn_on)
    return options


def _step_noise(latent: Tensor, seed: int) -> Callable[[], Tensor]:
    """Draw as ComfyUI 0.3.64 does: where the model runs, and on a CPU the same noise as the start at first."""
    device = compute_device()
    generator = torch.Generator(device).manual_seed(seed)
    return lambda: torch.randn(latent.shape, device=device, generator=generator)


def _mask(mask: Tensor | None, latent: Tensor) -> Tensor | None:
    """Resize a noise_mask to [B, 1, h, w]; unlike in SD2 KSampler, thin strokes may vanish."""
    if mask is None:
        return None
    mask = mask.float().reshape(-1, 1, *mask.shape[-2:])
    return fit_batch(F.interpolate(mask, size=latent.shape[-2:], mode="bilinear"), len(latent))
