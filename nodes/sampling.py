"""Nodes that sample."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..backends import DiffusionModel, backend
from ..backends.pairing import Prompt, check_decoders
from ..backends.sampler_object import SamplerObject
from ..pipeline.notices import eta_notice, schedule_notices
from ..pipeline.sample import sample_latent
from ..pipeline.types import Conditioning, Latent, Sampling
from ..samplers import SAMPLERS, SCHEDULERS, sampler_options, truncate

STEPS = (
    "INT",
    {
        "default": 20,
        "min": 1,
        "max": 1000,
        "tooltip": "Number of sampling steps. ldm and ddim_uniform take a few more if it does not divide 1000.",
    },
)
SAMPLER_NAME = (list(SAMPLERS), {"default": "ddim", "tooltip": "The sampling method."})
SCHEDULER = (
    list(SCHEDULERS),
    {"default": "ldm", "tooltip": "How to space the noise levels. ldm is the reference code's spacing."},
)
DENOISE = (
    "FLOAT",
    {
        "default": 1.0,
        "min": 0.0,
        "max": 1.0,
        "step": 0.01,
        "tooltip": "How much of the latent to replace. 1 starts from pure noise and ignores its content.",
    },
)
ETA = (
    "FLOAT",
    {
        "default": 0.0,
        "min": 0.0,
        "max": 1.0,
        "step": 0.01,
        "tooltip": "Noise that ddim adds at each step; other samplers ignore it. 0 adds none, and the reference's "
        "inpainting script uses 1.",
    },
)
INNER_STEPS = (
    "INT",
    {
        "default": 0,
        "min": 0,
        "max": 100,
        "tooltip": "Langevin steps before each step, so that a checkpoint without inpainting channels repaints the "
        "latent's mask in keeping with its surroundings. 3 is a good value; 0 is off.",
    },
)


class SD2KSampler:
    """Sample a latent."""

    CATEGORY = "SD2/sampling"
    DESCRIPTION = (
        "Sample a latent. With the ldm scheduler, ddim and plms match Stability's reference code; the other names "
        "mean the same as in KSampler."
    )
    SEARCH_ALIASES = (
        "ksampler",
        "sample",
        "denoise",
        "ddim",
        "plms",
        "generate",
        "v-prediction",
        "stable diffusion 2",
    )
    RETURN_TYPES = ("LATENT",)
    RETURN_NAMES = ("latent",)
    OUTPUT_TOOLTIPS = ("The sampled latent, for SD2 VAE Decode.",)
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model to sample with."}),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 0xFFFFFFFFFFFFFFFF,
                        "control_after_generate": True,
                        "tooltip": "Random seed; the same seed gives the same image.",
                    },
                ),
                "steps": STEPS,
                "cfg": (
                    "FLOAT",
                    {
                        "default": 8.0,
                        "min": 0.0,
                        "max": 100.0,
                        "step": 0.1,
                        "tooltip": "How strongly to follow the prompt. 1 ignores the negative prompt and runs twice "
                        "as fast.",
                    },
                ),
                "sampler_name": SAMPLER_NAME,
                "scheduler": SCHEDULER,
                "positive": ("CONDITIONING", {"tooltip": "What the image should show."}),
                "negative": ("CONDITIONING", {"tooltip": "What the image should not show."}),
                "latent_image": (
                    "LATENT",
                    {"tooltip": "The latent to start from. It sets the image size and the batch size."},
                ),
                "denoise": DENOISE,
            },
            "optional": {
                "eta": ETA,
                "cfg_rescale": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "Reduce the contrast that a high cfg adds. 0.7 suits v models; 0 is off.",
                    },
                ),
                "inner_steps": INNER_STEPS,
            },
            "hidden": {"prompt": "PROMPT", "unique_id": "UNIQUE_ID"},
        }

    def sample(
        self,
        model: DiffusionModel,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Conditioning,
        negative: Conditioning,
        latent_image: Latent,
        denoise: float = 1.0,
        eta: float = 0.0,
        cfg_rescale: float = 0.0,
        inner_steps: int = 0,
        prompt: Prompt | None = None,
        unique_id: str | None = None,
    ) -> tuple[Latent]:
        check_decoders(prompt, unique_id, model)
        sampling = Sampling(
            seed=seed,
            steps=steps,
            cfg=cfg,
            sampler_name=sampler_name,
            scheduler=scheduler,
            denoise=denoise,
            eta=eta,
            cfg_rescale=cfg_rescale,
            inner_steps=inner_steps,
        )
        return (sample_latent(backend.sample, model, sampling, positive, negative, latent_image),)


class SD2Sampler:
    """Select a sampler for the custom sampling nodes."""

    CATEGORY = "SD2/sampling"
    DESCRIPTION = (
        "Select a sampler for SamplerCustom and SamplerCustomAdvanced. With the ldm spacing of SD2 Scheduler, ddim "
        "and plms match Stability's reference code."
    )
    SEARCH_ALIASES = ("ksampler select", "custom sampler", "ddim", "plms")
    RETURN_TYPES = ("SAMPLER",)
    RETURN_NAMES = ("sampler",)
    OUTPUT_TOOLTIPS = ("The sampler, for SamplerCustom.",)
    FUNCTION = "select"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"sampler_name": SAMPLER_NAME}, "optional": {"eta": ETA, "inner_steps": INNER_STEPS}}

    def select(self, sampler_name: str, eta: float = 0.0, inner_steps: int = 0) -> tuple[SamplerObject]:
        eta_notice(sampler_name, eta)
        options = sampler_options(sampler_name, eta)
        return (SamplerObject(sampler_name=sampler_name, options=options, inner_steps=inner_steps),)


class SD2Scheduler:
    """Compute the noise levels for the custom sampling nodes."""

    CATEGORY = "SD2/sampling"
    DESCRIPTION = "Compute the noise levels of a run, for SamplerCustom and SamplerCustomAdvanced."
    SEARCH_ALIASES = ("basic scheduler", "sigmas", "ldm", "timesteps")
    RETURN_TYPES = ("SIGMAS",)
    RETURN_NAMES = ("sigmas",)
    OUTPUT_TOOLTIPS = ("The noise levels, highest first, for SamplerCustom.",)
    FUNCTION = "space"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        model = ("MODEL", {"tooltip": "The model to sample with; its noise schedule sets the levels."})
        return {"required": {"model": model, "scheduler": SCHEDULER, "steps": STEPS, "denoise": DENOISE}}

    def space(self, model: DiffusionModel, scheduler: str, steps: int, denoise: float = 1.0) -> tuple[Tensor]:
        schedule_notices(scheduler, steps, denoise)
        return (truncate(SCHEDULERS[scheduler], backend.schedule(model), steps, denoise).float(),)
