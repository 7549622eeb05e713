"""Stand-in for the stock KSampler."""

from __future__ import annotations

from ...pipeline.types import Sampling
from . import core_sampler
from .schema import Inputs, Latent, Wire


class KSampler:
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        seed = {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF, "control_after_generate": True}
        return {
            "required": {
                "model": ("MODEL",),
                "seed": ("INT", seed),
                "steps": ("INT", {"default": 20, "min": 1, "max": 10000}),
                "cfg": ("FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1}),
                "sampler_name": (core_sampler.SAMPLER_NAMES,),
                "scheduler": (core_sampler.SCHEDULER_NAMES,),
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "latent_image": ("LATENT",),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}),
            }
        }

    def sample(
        self, model: Wire, positive: Wire, negative: Wire, latent_image: Latent, **widgets: Wire
    ) -> tuple[Latent]:
        return (core_sampler.sample(model, Sampling(**widgets), positive, negative, latent_image),)


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "KSampler": KSampler,
}

NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "KSampler": "KSampler",
}
