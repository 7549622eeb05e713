"""ComfyUI's KSampler outside ComfyUI: it begins otherwise than SD2KSampler, and reads masks otherwise."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..pipeline import sample as pipeline
from ..pipeline.components import Model
from ..pipeline.images import fit_batch
from ..pipeline.types import Conditioning, Latent, Sampling
from ..samplers import SCHEDULERS, initial_sample, starting_noise, truncate

# those that give the same picture in every version of ComfyUI: fresh noise is drawn differently from one to the next
SAMPLER_NAMES = ["euler", "heun", "dpmpp_2m", "ddim"]
SCHEDULER_NAMES = ["simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "normal"]


def sample(
    model: Model, sampling: Sampling, positive: Conditioning, negative: Conditioning, latent_image: Latent
) -> Latent:
    """latent_image after a run; sampler and scheduler are of the names above."""
    sigmas = truncate(SCHEDULERS[sampling.scheduler], model.schedule, sampling.steps, sampling.denoise)
    if len(sigmas) == 0:
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
        # ddim is euler here, but for other noise over what the mask keeps
        noise=starting_noise(latent, sampling.seed + 1) if sampling.sampler_name == "ddim" else noise,
        mask=_mask(latent_image.get("noise_mask"), latent),
        start=start,
    )
    return {**latent_image, "samples": samples}


def _mask(mask: Tensor | None, latent: Tensor) -> Tensor | None:
    """A noise_mask of any size as [B, 1, h, w]: without the care for thin strokes that SD2KSampler takes."""
    if mask is None:
        return None
    mask = mask.float().reshape(-1, 1, *mask.shape[-2:])
    return fit_batch(F.interpolate(mask, size=latent.shape[-2:], mode="bilinear"), len(latent))
