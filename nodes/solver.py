"""Our solvers as SAMPLER objects, which ComfyUI's guider runs; nothing here imports ComfyUI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..samplers import SAMPLERS, SCHEDULERS, NoiseSchedule, Prediction, Step, final_sample, guide, initial_sample
from .guider import hold_unmasked
from .noise import step_noise

Guider = Any  # a comfy.samplers.CFGGuider while it samples: guider(x, sigma, model_options, seed) -> x0
Callback = Callable[[int, Tensor, Tensor, int], None]  # (step, x0, x, steps), ComfyUI's


def solver_options(sampler_name: str, eta: float) -> dict[str, Any]:
    """DDIM's eta is a choice (0 in the reference's text-to-image, 1 in its inpainting); the others have their own."""
    return {"eta": eta} if sampler_name == "ddim" else {}


@dataclass(frozen=True, kw_only=True)
class TabulatedSchedule(NoiseSchedule):
    """The noise schedule of a model that has only its table of sigmas: float [steps], ascending."""

    table: Tensor

    @cached_property
    def sigmas(self) -> Tensor:
        return self.table.double().cpu()

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        return 1 / (1 + self.sigmas**2)


@dataclass(frozen=True, kw_only=True)
class Solver:
    """The object on a SAMPLER wire.

    whole: start from noise alone, as the reference does. None: where the sigmas are those of a whole run.
    """

    sampler_name: str
    options: dict[str, Any]
    whole: bool | None = None

    def max_denoise(self, guider: Guider, sigmas: Tensor) -> bool:
        """Whether a run over these sigmas [steps + 1] starts from noise alone, whatever the latent holds."""
        if self.whole is not None:
            return self.whole
        table = _table(guider)
        if float(sigmas[0]) >= float(table[-1]) * (1 - 1e-5):
            return True
        # the reference's own spacing begins below the last timestep
        schedule = TabulatedSchedule(table=table, steps=len(table))
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
        """noise and latent_image [B, C, h, w], denoise_mask [B, 1 or C, h, w] -> the sampled latent; all scaled."""
        run = _MaskedGuider(guider, sigmas, extra_args, noise, latent_image, denoise_mask)
        whole = self.max_denoise(guider, sigmas)
        x = initial_sample(noise, float(sigmas[0]), None if whole else latent_image)
        fresh = step_noise(latent_image, extra_args.get("seed") or 0)
        with tqdm(total=len(sigmas) - 1, disable=disable_pbar) as bar:

            def report(step: Step) -> None:
                if callback is not None:
                    callback(step.index, step.denoised, step.x, step.total)
                bar.update()

            x = SAMPLERS[self.sampler_name](run, x, sigmas, noise=fresh, callback=report, **self.options)
        if float(sigmas[-1]) > float(_table(guider)[0]) * (1 + 1e-5):  # another sampler goes on from here
            return x
        x = final_sample(x, float(sigmas[-1]))
        return x if denoise_mask is None else hold_unmasked(x, latent_image, denoise_mask)


def _table(guider: Guider) -> Tensor:
    """The sigmas a model was trained on, ascending."""
    sigmas: Tensor = guider.inner_model.model_sampling.sigmas
    return sigmas


@dataclass(frozen=True)
class _MaskedGuider:
    """denoise(x, sigma) -> x0, with everything outside the mask held at the latent."""

    guider: Guider
    sigmas: Tensor
    extra_args: dict[str, Any]
    noise: Tensor
    latent: Tensor
    mask: Tensor | None

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        sigmas = x.new_full((len(x),), sigma)
        if self.mask is None:
            denoised: Tensor = self.guider(x, sigmas, **self.extra_args)
            return denoised
        mask = self._mask_at(sigmas, self.mask)
        known = self.guider.inner_model.scale_latent_inpaint(
            x=x, sigma=sigmas, noise=self.noise, latent_image=self.latent
        )
        return self.latent.lerp(self.guider(known.lerp(x, mask), sigmas, **self.extra_args), mask)

    def _mask_at(self, sigmas: Tensor, mask: Tensor) -> Tensor:
        """The mask at a noise level, which Differential Diffusion changes from step to step."""
        change = self.extra_args["model_options"].get("denoise_mask_function")
        if change is None:
            return mask
        changed: Tensor = change(sigmas, mask, extra_options={"model": self.guider, "sigmas": self.sigmas})
        return changed


def rescaled_guidance(phi: float, prediction: Prediction) -> Callable[[dict[str, Any]], Tensor]:
    """Guidance with its rescaling by `phi`, as the sampler_cfg_function of a ComfyUI model: x - x0."""

    def rescaled(args: dict[str, Any]) -> Tensor:
        x = args["input"]
        sigma = float(args["sigma"].flatten()[0])
        x0 = guide(
            args["cond_denoised"],
            args["uncond_denoised"],
            x=x,
            sigma=sigma,
            scale=args["cond_scale"],
            phi=phi,
            prediction=prediction,
        )
        return x - x0

    return rescaled
