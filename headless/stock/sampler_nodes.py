"""Stand-ins for the stock KSamplers, and for what changes how they sample."""

from __future__ import annotations

from dataclasses import replace

from ...pipeline.types import Sampling
from ...samplers import DISTILLED
from . import core_sampler
from .schema import Inputs, Latent, Wire

SEED = ("INT", {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF, "control_after_generate": True})
HOW = {
    "steps": ("INT", {"default": 20, "min": 1, "max": 10000}),
    "cfg": ("FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1}),
    "sampler_name": (core_sampler.SAMPLER_NAMES,),
    "scheduler": (core_sampler.SCHEDULER_NAMES,),
    "positive": ("CONDITIONING",),
    "negative": ("CONDITIONING",),
    "latent_image": ("LATENT",),
}
LAST = 10000


class _KSampler:
    """Base of both: check the names before anything runs."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"

    @classmethod
    def VALIDATE_INPUTS(cls, sampler_name: str | None, scheduler: str | None) -> bool:
        core_sampler.check_names(sampler_name, scheduler)
        return True


class KSampler(_KSampler):
    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        denoise = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}
        return {"required": {"model": ("MODEL",), "seed": SEED, **HOW, "denoise": ("FLOAT", denoise)}}

    def sample(
        self, model: Wire, positive: Wire, negative: Wire, latent_image: Latent, **widgets: Wire
    ) -> tuple[Latent]:
        return (core_sampler.sample(model, Sampling(**widgets), positive, negative, latent_image),)


class KSamplerAdvanced(_KSampler):
    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("MODEL",),
                "add_noise": (["enable", "disable"],),
                "noise_seed": SEED,
                **HOW,
                "start_at_step": ("INT", {"default": 0, "min": 0, "max": LAST}),
                "end_at_step": ("INT", {"default": LAST, "min": 0, "max": LAST}),
                "return_with_leftover_noise": (["disable", "enable"],),
            }
        }

    def sample(
        self,
        model: Wire,
        add_noise: str,
        noise_seed: int,
        positive: Wire,
        negative: Wire,
        latent_image: Latent,
        start_at_step: int,
        end_at_step: int,
        return_with_leftover_noise: str,
        **widgets: Wire,
    ) -> tuple[Latent]:
        """Take the steps from start_at_step to end_at_step of a run."""
        sampled = core_sampler.sample(
            model,
            Sampling(seed=noise_seed, **widgets),
            positive,
            negative,
            latent_image,
            steps=slice(start_at_step, end_at_step),
            full=return_with_leftover_noise == "disable",
            add_noise=add_noise == "enable",
        )
        return (sampled,)


class DifferentialDiffusion:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        strength = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}
        return {"required": {"model": ("MODEL",)}, "optional": {"strength": ("FLOAT", strength)}}

    def execute(self, model: Wire, strength: float = 1.0) -> tuple[Wire]:
        return (replace(model, differential=strength or 1.0),)  # ComfyUI takes 0 for 1


class ModelSamplingDiscrete:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": ("MODEL",),
                "sampling": (["eps", "v_prediction", "lcm", "x0", "img_to_img"],),
                "zsnr": ("BOOLEAN", {"default": False}),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, sampling: str | None) -> bool:
        if sampling in ("x0", "img_to_img"):
            raise ValueError(
                f"sampling is {sampling!r}, which needs ComfyUI; choose eps, v_prediction or lcm, or run the workflow "
                "with --comfyui or --server"
            )
        return True

    def patch(self, model: Wire, sampling: str, zsnr: bool = False) -> tuple[Wire]:
        """Set what the UNet predicts, and the noise levels of its training.

        Latent consistency models (lcm) predict noise. Of x0 and x, their paper takes c_out and c_skip parts, which
        differ from 1 and 0 by less than 1e-5 at the timesteps that are used.
        """
        stride = DISTILLED if sampling == "lcm" else 1
        schedule = replace(model.schedule, zero_terminal_snr=zsnr, stride=stride)
        prediction = "v_prediction" if sampling == "v_prediction" else "epsilon"
        return (replace(model, schedule=schedule, prediction=prediction),)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "KSampler": KSampler,
    "KSamplerAdvanced": KSamplerAdvanced,
    "DifferentialDiffusion": DifferentialDiffusion,
    "ModelSamplingDiscrete": ModelSamplingDiscrete,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "KSampler": "KSampler",
    "KSamplerAdvanced": "KSampler (Advanced)",
    "DifferentialDiffusion": "Differential Diffusion",
}
