"""Pictures, masked pictures and captions as the UNet sees them, computed once by the trained autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..models.autoencoder import AutoencoderKL
from ..models.prompt import tokenize
from . import dataset as data
from .random_masks import hidden, random_mask
from .trainer import device

PAD = 0  # the token that 2.x pads with
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Latents:
    """N scenes: scaled latents, their captions, and one random mask each with the masked picture's latents."""

    pictures: Tensor  # [N, 4, 16, 16]
    tokens: Tensor  # int64 [N, captions, 77]
    masks: Tensor  # [N, 1, 16, 16]
    masked: Tensor  # [N, 4, 16, 16]
    hidden: Tensor  # [N], the part of an object that the mask covers
    grey: Tensor  # [1, 4, 16, 16], the latents of a picture masked everywhere


def tokens_of(text: str) -> Tensor:
    """int64 [77]."""
    (chunk,) = tokenize(text, PAD)
    return torch.tensor(chunk.tokens)


@torch.inference_mode()
def encode(autoencoder: AutoencoderKL, scale: float, pictures: Tensor) -> Tensor:
    """Scaled latents of pictures [N, 3, H, W] in -1..1, a few at a time."""
    parts = [autoencoder.encode(part.to(device())) for part in pictures.split(BATCH)]
    return (torch.cat(parts) * scale).cpu().clone(memory_format=torch.contiguous_format)


def load(folder: Path, autoencoder: AutoencoderKL, scale: float, count: int) -> Latents:
    """The latents of the first `count` scenes, from `folder` if they were computed before."""
    path = folder / "latents.pt"
    if not path.exists():
        torch.save(_compute(folder, autoencoder, scale, count), path)
    return Latents(**torch.load(path, weights_only=True))


def _compute(folder: Path, autoencoder: AutoencoderKL, scale: float, count: int) -> dict[str, Tensor]:
    scenes, notes = data.scenes(folder, count)
    masks = np.stack(
        [random_mask(np.random.default_rng((seed, 2)), data.SIZE, note["boxes"]) for seed, note in enumerate(notes)]
    )
    pictures, masked = [], []
    for i in tqdm(range(0, count, BATCH), "latents"):
        batch = data.to_tensor(scenes[i : i + BATCH])
        kept = torch.from_numpy(masks[i : i + BATCH, None]) < 0.5
        pictures.append(encode(autoencoder, scale, batch))
        masked.append(encode(autoencoder, scale, batch * kept))
    return {
        "pictures": torch.cat(pictures),
        "tokens": torch.stack([torch.stack([tokens_of(text) for text in note["captions"]]) for note in notes]),
        "masks": F.max_pool2d(torch.from_numpy(masks)[:, None], data.SIZE // pictures[0].shape[-1]),
        "masked": torch.cat(masked),
        "hidden": torch.tensor([hidden(mask, note["boxes"]) for mask, note in zip(masks, notes, strict=True)]),
        "grey": encode(autoencoder, scale, torch.zeros(1, 3, data.SIZE, data.SIZE)),
    }
