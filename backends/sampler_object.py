"""Our samplers as SAMPLER objects for ComfyUI's guider, without importing ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..pipeline.notices import inner_steps_notice
from ..samplers import SAMPLERS, SCHEDULERS, NoiseSchedule, Prediction, Scale, Step, guide, run, step_noise

Guider = Any  # a comfy.samplers.CFGGuider while it samples: guider(x, sigma, model_options, seed) -> x0
Callback = Callable[[int, Tensor, Tensor, int], None]  # (step, x0, x, steps), ComfyUI's


@dataclass(frozen=True, kw_only=True)
class TabulatedSchedule(NoiseSchedule):
    """The noise schedule of a model known only by its table of sigmas: float [steps], ascending."""

    table: Tensor

    @cached_property
    def sigmas(self) -> Tensor:
        return self.table.double().cpu()

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        return 1 / (1 + self.sigmas**2)


@dataclass(frozen=True, kw_only=True)
class SamplerObject:
    """The object on a SAMPLER wire.

    whole: start from pure noise, as the reference does; None decides by the sigmas. inner_steps: see `samplers.run`.
    """

    sampler_name: str
    options: Mapping[str, float]
    whole: bool | None = None
    inner_steps: int = 0

    def max_denoise(self, guider: Guider, sigmas: Tensor) -> bool:
        """Whether a run over these sigmas [steps + 1] starts from pure noise and ignores the latent."""
        if self.whole is not None:
            return self.whole
        table = _table(guider)
        if float(sigmas[0]) >= float(table[-1]) * (1 - 1e-5):
            return True
        # the reference's own spacing begins below the last timestep
        schedule = TabulatedSchedule(table=table)
        reference = SCHEDULERS["ldm"](schedule, len(sigmas) - 1).to(sigmas)
        return len(reference) == len(sigmas) and torch.allclose(reference, sigmas, rtol=1e-4, atol=0)

    def sample(
        self,
        guider: Guider,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callback | None,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """Sample: noise and latent_image [B, C, h, w], denoise_mask [B, 1 or C, h, w] -> latent; all scaled."""

        def denoise(x: Tensor, sigma: float) -> Tensor:
            x0: Tensor = guider(x, x.new_full((len(x),), sigma), **extra_args)
            return x0

        def unguided(x: Tensor, sigma: float) -> Tensor:
            scale, guider.cfg = guider.cfg, 1.0
            try:
                return denoise(x, sigma)
            finally:
                guider.cfg = scale

        def mask_at(mask: Tensor, sigma: float) -> Tensor:
            """Return the mask at a noise level; Differential Diffusion changes it at every step."""
            change = extra_args["model_options"].get("denoise_mask_function")
            if change is None:
                return mask
            levels = noise.new_full((len(noise),), sigma)
            changed: Tensor = change(levels, mask, extra_options={"model": guider, "sigmas": sigmas})
            return changed

        inner_steps_notice(self.inner_steps, denoise_mask is not None)
        with tqdm(total=len(sigmas) - 1, disable=disable_pbar) as bar:

            def report(step: Step) -> None:
                if callback is not None:
                    callback(step.index, step.denoised, step.x, step.total)
                bar.total = step.total
                bar.update()

            return run(
                SAMPLERS[self.sampler_name],
                denoise,
                sigmas,
                noise=noise,
                step_noise=step_noise(latent_image, extra_args.get("seed") or 0),
                latent=latent_image,
                whole=self.max_denoise(guider, sigmas),
                mask=denoise_mask,
                mask_at=mask_at,
                # another sampler continues if the run ends above the lowest noise level
                leave_noise=float(sigmas[-1]) > float(_table(guider)[0]) * (1 + 1e-5),
                callback=report,
                options=self.options,
                inner_steps=self.inner_steps,
                unguided=unguided,
            )


def _table(guider: Guider) -> Tensor:
    """Return the sigmas that the model was trained on, ascending."""
    sigmas: Tensor = guider.inner_model.model_sampling.sigmas
    return sigmas


def own_guidance(scale: Scale, phi: float, prediction: Prediction) -> Callable[[dict[str, Any]], Tensor]:
    """Return guidance as the sampler_cfg_function of a ComfyUI model: x - x0.

    scale: of each pixel, or the sampler's own. phi: of the rescaling.
    """

    def guided(args: dict[str, Any]) -> Tensor:
        x = args["input"]
        x0 = guide(
            args["cond_denoised"],
            args["uncond_denoised"],
            x=x,
            sigma=float(args["sigma"].flatten()[0]),
            scale=scale.to(x) if isinstance(scale, Tensor) else args["cond_scale"],
            phi=phi,
            prediction=prediction,
        )
        difference: Tensor = x - x0
        return difference

    return guided
