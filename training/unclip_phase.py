"""The phase `unclip`: an image tower, then the v model resumed with the tower's embedding as class condition.

It follows the making of Stable unCLIP 2.1 from Stable Diffusion 2.1 (arXiv:2204.06125), in the layout of its H file.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..models.noise_augmentation import LEVELS, NoiseAugmentation
from . import dataset, image_tower
from .autoencoder_phase import load_autoencoder
from .image_tower import TOWER, embed, load_tower, train_tower
from .latent_cache import SceneLatents, scene_latents
from .networks import UNET, TextToImage
from .objectives import denoising_loss, random_captions, random_timesteps
from .trainer import Plan, train
from .warm_start import resume, starting_weights

AUGMENTATION = NoiseAugmentation(TOWER.embed_dim)
CAPTION_DROPOUT = 0.8  # high: an image alone must be enough
IMAGE_DROPOUT = 0.1
CLASS_EMBEDDING_GAIN = 2.0  # initial singular values of the last layer: about the size of the timestep embedding
LOG_SIGMA = 0.8, 1.2  # mean and standard deviation: high noise decides the contents of an image


def train_unclip(folder: Path, plan: Plan) -> None:
    train_tower(folder, image_tower.TOWER_PLAN)
    scenes = scene_latents(folder, load_autoencoder(folder))
    images, _ = dataset.scenes(folder, dataset.SCENE_COUNT)
    embeddings = embed(load_tower(folder), images)
    torch.manual_seed(plan.seed)
    model = image_conditioned()
    fresh = {key: tensor for key, tensor in model.state_dict().items() if key.startswith("unet.label_emb.")}
    resume(model, {**starting_weights("unclip", folder), **fresh})
    model.text.requires_grad_(False)
    train(model, partial(unclip_loss, scenes, embeddings, plan.batch_size), plan, folder / "unclip.pt")


def image_conditioned() -> TextToImage:
    """Build a denoiser whose class condition has an effect from the first step: from zero it takes thousands."""
    model = TextToImage(UNET.in_channels, replace(UNET, vector_dim=2 * TOWER.embed_dim))
    last = model.unet.get_submodule("label_emb.0.2")
    nn.init.orthogonal_(last.get_parameter("weight"), gain=CLASS_EMBEDDING_GAIN)
    nn.init.zeros_(last.get_parameter("bias"))
    return model


def unclip_loss(
    scenes: SceneLatents,
    embeddings: Tensor,
    batch_size: int,
    model: TextToImage,
    choices: np.random.Generator,
    noise: torch.Generator,
) -> Tensor:
    """Return `denoising_loss` of the velocity, with noised embeddings [N, dim] as class condition."""
    index = torch.from_numpy(choices.integers(0, len(embeddings), batch_size))
    tokens = random_captions(scenes.tokens, index, choices, CAPTION_DROPOUT)
    t = random_timesteps(choices, batch_size, log_sigma=LOG_SIGMA)
    y = noised_embeddings(embeddings[index], choices, noise)
    return denoising_loss(model, scenes.images[index], t, tokens, "v_prediction", noise, y=y)


def noised_embeddings(embeddings: Tensor, choices: np.random.Generator, noise: torch.Generator) -> Tensor:
    """Noise embeddings [B, dim] to random levels, low ones more often, and zero some: class conditions [B, 2 dim]."""
    count = len(embeddings)
    levels = torch.from_numpy((LEVELS * choices.random(count) ** 3).astype(np.int64))
    draws = torch.randn(embeddings.shape, generator=noise, device=noise.device).cpu()
    y = AUGMENTATION(embeddings, levels, draws)
    return torch.where(torch.from_numpy(choices.random(count) < IMAGE_DROPOUT)[:, None], 0, y)


def extra_tensors(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the checkpoint's tensors besides UNet, autoencoder and text encoder: image tower and noise schedule.

    The official file also holds most of CLIP's text half, which nothing reads. Here it is the demo's own text encoder,
    without the embeddings of tokens that no caption holds (zeros in `weights`), which would take 6 MB.
    """
    text = {key.removeprefix("text.model."): w for key, w in weights.items() if key.startswith("text.model.")}
    half = {key: w for key, w in text.items() if not key.startswith("transformer.")}
    half["token_embedding.weight"] = half["token_embedding.weight"][half["token_embedding.weight"].any(1)]
    embedder = {**load_tower(folder).state_dict(), **half}
    return {
        **{f"embedder.model.{key}": tensor for key, tensor in embedder.items()},
        **{f"noise_augmentor.{key}": tensor for key, tensor in AUGMENTATION.state_dict().items()},
    }
