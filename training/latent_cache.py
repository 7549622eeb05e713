"""Images, masked images and captions as the UNet reads them, computed once by the trained autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..models.prompt import tokenize
from ..pipeline import inpaint
from ..pipeline.components import VAE
from . import dataset
from .networks import TEXT
from .progress_bar import progress_bar
from .random_masks import hidden_fraction, random_mask

BATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class SceneLatents:
    """Scaled latents and captions of N scenes, with one random mask each and the latents of the masked image."""

    images: Tensor  # [N, 4, 16, 16]
    tokens: Tensor  # int64 [N, captions, 77]
    masks: Tensor  # [N, 1, 16, 16]
    masked: Tensor  # [N, 4, 16, 16]
    hidden: Tensor  # [N], the fraction of an object that the mask covers
    gray: Tensor  # [1, 4, 16, 16], the latents of an image masked everywhere


def tokens_of(text: str) -> Tensor:
    """Tokenize a prompt that fits in one chunk, int64 [77]."""
    (chunk,) = tokenize(text, TEXT.pad_token)
    return torch.tensor(chunk.tokens)


def caption_tokens(notes: list[dataset.Note]) -> Tensor:
    """Tokenize the captions of scenes, int64 [N, captions, 77]."""
    return torch.stack([torch.stack([tokens_of(text) for text in note["captions"]]) for note in notes])


def scene_latents(folder: Path, vae: VAE) -> SceneLatents:
    """Read the latents of the training scenes from `folder`, computed first if missing."""
    path = folder / "scene_latents.pt"
    if not path.exists():
        torch.save(_compute(folder, vae), path)
    return SceneLatents(**torch.load(path, weights_only=True))


def _compute(folder: Path, vae: VAE) -> dict[str, Tensor]:
    scenes, notes = dataset.scenes(folder, dataset.SCENE_COUNT)
    masks = np.stack(
        [random_mask(np.random.default_rng((seed, 2)), dataset.SIZE, note["boxes"]) for seed, note in enumerate(notes)]
    )
    images, masked, shrunk = [], [], []
    for i in progress_bar(range(0, len(notes), BATCH_SIZE), "latents"):
        batch = slice(i, i + BATCH_SIZE)
        options, latent = inpaint.encode(vae, dataset.to_floats(scenes[batch]), torch.from_numpy(masks[batch]))
        images.append(latent["samples"])
        masked.append(options["concat_latent_image"])
        shrunk.append(options["concat_mask"])
    return {
        "images": vae.spec.scale * torch.cat(images),
        "tokens": caption_tokens(notes),
        "masks": torch.cat(shrunk),
        "masked": vae.spec.scale * torch.cat(masked),
        "hidden": torch.tensor([hidden_fraction(mask, n["boxes"]) for mask, n in zip(masks, notes, strict=True)]),
        "gray": vae.spec.scale * vae.encode(torch.full((1, dataset.SIZE, dataset.SIZE, 3), 0.5)),
    }
