"""ComfyUI's KSampler outside ComfyUI; it starts differently from SD2 KSampler and resizes masks differently."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ...pipeline import sample as pipeline
from ...pipeline.components import Model
from ...pipeline.images import fit_batch
from ...pipeline.notices import notice
from ...pipeline.types import Conditioning, Latent, Sampling
from ...samplers import SCHEDULERS, initial_sample, starting_noise, truncate

# samplers with the same result in every version of ComfyUI, which differ in how they draw noise at each step
SAMPLER_NAMES = ["euler", "heun", "dpmpp_2m", "ddim"]
SCHEDULER_NAMES = ["simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "normal"]


def sample(
    model: Model, sampling: Sampling, positive: Conditioning, negative: Conditioning, latent_image: Latent
) -> Latent:
    """Sample latent_image with one of the samplers and schedulers above."""
    sigmas = truncate(SCHEDULERS[sampling.scheduler], model.schedule, sampling.steps, sampling.denoise)
    if len(sigmas) == 0:
        notice("denoise is 0, so the latent is unchanged; raise it to sample")
        return latent_image
    latent: Tensor = latent_image["samples"].float()
    noise = starting_noise(latent, sampling.seed, latent_image.get("batch_index"))
    first, scaled = float(sigmas[0]), latent * model.spec.autoencoder.scale
    whole = first >= model.schedule.sigma_max * (1 - 1e-5)
    # a whole run starts from the latent as well
    start = scaled + initial_sample(noise, first) if whole else initial_sample(noise, first, scaled)
    samples = pipeline.sample(
        model,
        sampling,
        positive,
        negative,
        latent=latent,
        # ddim equals euler here, except for the noise on the kept area
        noise=starting_noise(latent, sampling.seed + 1) if sampling.sampler_name == "ddim" else noise,
        mask=_mask(latent_image.get("noise_mask"), latent),
        start=start,
    )
    return {**latent_image, "samples": samples}


def _mask(mask: Tensor | None, latent: Tensor) -> Tensor | None:
    """Resize a noise_mask to [B, 1, h, w]; unlike in SD2 KSampler, thin strokes may vanish."""
    if mask is None:
        return None
    mask = mask.float().reshape(-1, 1, *mask.shape[-2:])
    return fit_batch(F.interpolate(mask, size=latent.shape[-2:], mode="bilinear"), len(latent))
