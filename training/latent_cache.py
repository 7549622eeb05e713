"""Images, masked images and captions as the UNet reads them, computed once by the trained autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.autoencoder import AutoencoderKL
from ..models.prompt import tokenize
from . import dataset
from .progress_bar import progress_bar
from .random_masks import hidden_fraction, random_mask
from .trainer import device

PAD = 0  # the token that 2.x pads with
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
    (chunk,) = tokenize(text, PAD)
    return torch.tensor(chunk.tokens)


def caption_tokens(notes: list[dataset.Note]) -> Tensor:
    """Tokenize the captions of scenes, int64 [N, captions, 77]."""
    return torch.stack([torch.stack([tokens_of(text) for text in note["captions"]]) for note in notes])


@torch.inference_mode()
def encode(autoencoder: AutoencoderKL, scale: float, images: Tensor) -> Tensor:
    """Compute scaled latents of images [N, 3, H, W] in -1..1, a few at a time."""
    parts = [autoencoder.encode(part.to(device())) for part in torch.split(images, BATCH_SIZE)]
    return (torch.cat(parts) * scale).cpu().clone(memory_format=torch.contiguous_format)


def scene_latents(folder: Path, autoencoder: AutoencoderKL, scale: float) -> SceneLatents:
    """Read the latents of the training scenes from `folder`, computed first if missing."""
    path = folder / "scene_latents.pt"
    if not path.exists():
        torch.save(_compute(folder, autoencoder, scale), path)
    return SceneLatents(**torch.load(path, weights_only=True))


def _compute(folder: Path, autoencoder: AutoencoderKL, scale: float) -> dict[str, Tensor]:
    scenes, notes = dataset.scenes(folder, dataset.SCENE_COUNT)
    masks = np.stack(
        [random_mask(np.random.default_rng((seed, 2)), dataset.SIZE, note["boxes"]) for seed, note in enumerate(notes)]
    )
    images, masked = [], []
    for i in progress_bar(range(0, len(notes), BATCH_SIZE), "latents"):
        batch = dataset.to_tensor(scenes[i : i + BATCH_SIZE])
        images.append(encode(autoencoder, scale, batch))
        masked.append(masked_latents(autoencoder, scale, batch, torch.from_numpy(masks[i : i + BATCH_SIZE, None])))
    return {
        "images": torch.cat(images),
        "tokens": caption_tokens(notes),
        "masks": shrink_masks(torch.from_numpy(masks)[:, None], dataset.SIZE // images[0].shape[-1]),
        "masked": torch.cat(masked),
        "hidden": torch.tensor([hidden_fraction(mask, n["boxes"]) for mask, n in zip(masks, notes, strict=True)]),
        "gray": encode(autoencoder, scale, torch.zeros(1, 3, dataset.SIZE, dataset.SIZE)),
    }


def masked_latents(autoencoder: AutoencoderKL, scale: float, images: Tensor, masks: Tensor) -> Tensor:
    """Encode images [N, 3, H, W] with the pixels of masks [N, 1, H, W] set to gray: scaled latents."""
    return encode(autoencoder, scale, images * (masks < 0.5))


def shrink_masks(masks: Tensor, factor: int) -> Tensor:
    """Resize masks [N, 1, H, W] to latent size: a latent pixel is masked where any pixel of its block is."""
    return F.max_pool2d(masks, factor)
