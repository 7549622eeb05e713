"""Sample with our samplers in ComfyUI's guider, and identify the model on a MODEL wire.

ComfyUI's guider handles batching, previews, interrupts and hooks; our sampler runs in it as a SAMPLER object.
"""

from __future__ import annotations

from dataclasses import replace

import comfy.model_base
import comfy.model_sampling
import comfy.sample
import comfy.supported_models
import comfy.utils
import latent_preview
from torch import Tensor

from ...models.specs import SPECS, ModelSpec
from ...pipeline import checks
from ...pipeline.inpaint import guidance
from ...pipeline.types import Conditioning, Sampling
from ...samplers import SCHEDULERS, NoiseSchedule, gradual, is_soft, sampler_options, truncate
from ..sampler_object import SamplerObject, TabulatedSchedule, own_guidance
from .model import Patcher, sample_in_tiles


def schedule(model: Patcher) -> NoiseSchedule:
    """Return the noise schedule of the model on a MODEL wire, as set by upstream nodes."""
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.EPS):
        raise ValueError(
            f"{_name(model)} ({type(model.model).__name__}) does not predict noise or velocity; sample it with "
            "KSampler"
        )
    table = sampling.sigmas.detach()
    return TabulatedSchedule(table=table)


def sample(
    model: Patcher,
    sampling: Sampling,
    positive: Conditioning,
    negative: Conditioning,
    *,
    latent: Tensor,
    noise: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Sample: latent and noise [B, 4, h, w], mask [B, 1, h, w] with 1 where to repaint -> latent, unscaled."""
    _check(model, latent, positive, negative, inner_steps=sampling.inner_steps)
    if isinstance(model.model, comfy.model_base.SD_X4Upscaler):
        model = model.clone()
        sample_in_tiles(model)
    levels = schedule(model)
    sigmas = truncate(SCHEDULERS[sampling.scheduler], levels, sampling.steps, sampling.denoise).float()
    if len(sigmas) == 0:
        return latent
    scale = guidance(sampling.cfg, mask, _spec(model))
    tapered = isinstance(scale, Tensor) and "sampler_cfg_function" not in model.model_options
    if sampling.cfg_rescale > 0 or tapered:
        model = model.clone()
        velocity = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.V_PREDICTION)
        own = own_guidance(scale, sampling.cfg_rescale, "v_prediction" if velocity else "epsilon")
        model.set_model_sampler_cfg_function(own)
    if mask is not None and is_soft(mask) and "denoise_mask_function" not in model.model_options:
        mask_at = gradual(levels, sigmas)
        model = model.clone()
        model.set_model_denoise_mask_function(lambda sigma, mask, extra_options: mask_at(mask, float(sigma[0])))
    options = sampler_options(sampling.sampler_name, sampling.eta)
    samples: Tensor = comfy.sample.sample_custom(
        model,
        noise,
        sampling.cfg,
        SamplerObject(
            sampler_name=sampling.sampler_name,
            options=options,
            whole=sampling.denoise >= 1,
            inner_steps=sampling.inner_steps,
        ),
        sigmas,
        positive,
        negative,
        latent,
        noise_mask=mask,
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=sampling.seed,
    )
    return samples


def _check(model: Patcher, latent: Tensor, *sides: Conditioning, inner_steps: int) -> None:
    """Check the pairing as outside ComfyUI, for models of the family only."""
    spec = _spec(model)
    if spec is None:
        return
    checks.check(_name(model), spec, latent, *sides, inner_steps=inner_steps)


def identify(model: Patcher) -> tuple[str, ModelSpec | None]:
    """Return a model's name for messages and its spec, which is None for a model of another family."""
    return _name(model), _spec(model)


def _name(model: Patcher) -> str:
    """Return the model's name for messages: its file if our loader loaded it."""
    return getattr(model.model, "sd2_name", "the model")


def _spec(model: Patcher) -> ModelSpec | None:
    """Return the spec of a model of the family, or None for other models."""
    known: ModelSpec | None = getattr(model.model, "sd2_spec", None)
    config = model.model.model_config
    supported = comfy.supported_models
    kinds = {
        supported.SD15: ("v1", "v1-inpaint"),
        supported.SD20: ("v2-base", "v2-inpaint"),
        supported.SD_X4Upscaler: ("x4", "x4"),
    }.get(type(config))
    if known is not None or kinds is None:
        return known
    inpainting = config.unet_config["in_channels"] == SPECS["v1-inpaint"].unet.in_channels
    spec = SPECS[kinds[inpainting]]
    return replace(spec, unet=replace(spec.unet, context_dim=config.unet_config["context_dim"]))
