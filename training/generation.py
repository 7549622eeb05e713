"""Generate images with a demo checkpoint: ddim on the ldm schedule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..pipeline import inpaint
from ..pipeline.blend import composite
from ..pipeline.components import Loaded
from ..pipeline.sample import sample
from ..pipeline.types import Conditioning, Sampling, TextEncoder, with_options
from ..samplers import starting_noise
from . import dataset
from .trials import Trial

STEPS = 30


def repaint(loaded: Loaded, trials: Sequence[Trial], *, scale: float, steps: int = STEPS, seed: int = 0) -> Tensor:
    """Repaint the mask of each trial to its prompt: images [N, H, W, 3] in 0..1."""
    images = dataset.to_floats(np.stack([trial.image for trial in trials]))
    masks = torch.from_numpy(np.stack([trial.mask for trial in trials]))
    options, latent = inpaint.encode(loaded.vae, images, masks)
    positive, negative = (
        with_options(encode_prompts(loaded.clip, prompts), options)
        for prompts in ([trial.prompt for trial in trials], [""])
    )
    noise = starting_noise(latent["samples"], seed)
    painted = generate(loaded, positive, negative, noise, scale=scale, steps=steps)
    return composite(images, painted, masks, color_match=False, blend="none")


def encode_prompts(clip: TextEncoder, prompts: Sequence[str]) -> Conditioning:
    """Encode the prompts of a batch of images, all of one length, as one entry of a conditioning."""
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt)) for prompt in prompts]
    return [[torch.cat([context for entries in encoded for context, _ in entries]), {}]]


def draw_noise(loaded: Loaded, count: int, side: int, seed: int) -> Tensor:
    """Draw the starting noise [count, 4, h, w] of images of `side` x `side` pixels."""
    spec = loaded.model.spec.autoencoder
    latent = torch.empty(count, spec.latent_channels, side // spec.factor, side // spec.factor)
    return starting_noise(latent, seed)


def generate(
    loaded: Loaded, positive: Conditioning, negative: Conditioning, noise: Tensor, *, scale: float, steps: int = STEPS
) -> Tensor:
    """Generate images [N, H, W, 3] in 0..1 from noise [N, 4, h, w], with guidance `scale`."""
    sampling = Sampling(seed=0, steps=steps, cfg=scale, sampler_name="ddim", scheduler="ldm")  # eta 0 draws nothing
    latent = torch.zeros_like(noise)
    samples = sample(loaded.model, sampling, positive, negative, latent=latent, noise=noise, mask=None)
    return loaded.vae.decode(samples)
