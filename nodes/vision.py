"""Pictures as conditions: what travels on CLIP_VISION wires, and what an unCLIP model makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..models.noise_augmentation import LEVELS, NoiseAugmentation
from .wires import Conditioning

# ComfyUI's own keys: a list of {clip_vision_output, strength, noise_augmentation}, to which our node adds seed; and
# the noise on the mix of several
IMAGES, MIX_NOISE = "unclip_conditioning", "unclip_noise_augment_merge"
KEYS = {IMAGES, MIX_NOISE}
LAST_LEVEL = LEVELS - 1  # noise is 0..1 of this on the wire
MIX_LEVEL = 50  # the reference's


@dataclass(frozen=True)
class ImageEmbedding:
    """The object on a CLIP_VISION_OUTPUT wire, whose parts ComfyUI reads as attributes or as items."""

    image_embeds: Tensor  # [B, D]
    last_hidden_state: Tensor | None = None
    penultimate_hidden_states: Tensor | None = None
    mm_projected: Tensor | None = None

    def __getitem__(self, key: str) -> Tensor | None:
        part: Tensor | None = getattr(self, key)
        return part


@dataclass(frozen=True)
class NoImageEncoder:
    """On the CLIP_VISION wire of a checkpoint without an image encoder: says so when it is asked."""

    name: str  # the file's

    def encode_image(self, image: Tensor, crop: bool = True) -> NoReturn:
        raise ValueError(f"{self.name} holds no image encoder; unCLIP needs sd21-unclip-h or sd21-unclip-l")


def with_image(
    conditioning: Conditioning, output: ImageEmbedding, *, weight: float, level: int, seed: int, mix_level: int
) -> Conditioning:
    """The conditioning with one more picture; levels are 0..999."""
    image = {
        "clip_vision_output": output,
        "strength": weight,
        "noise_augmentation": level / LAST_LEVEL,
        "seed": seed,
    }
    return [
        [context, {**options, IMAGES: [*options.get(IMAGES, []), image], MIX_NOISE: mix_level / LAST_LEVEL}]
        for context, options in conditioning
    ]


@torch.no_grad()
def class_condition(
    name: str, augmentation: NoiseAugmentation, options: dict[str, Any], default_seed: int = 0
) -> Tensor:
    """What the UNet of the file `name` is told of the pictures in a conditioning's options: float32 [1, 2 * dim].

    Each is noised to its own level; several are mixed, sum(weight * vector) / sum(weight), and the mix is noised once
    more. Without any it is zeros, as on the unconditional side. The noise is drawn from the seed of each picture, on
    the mix from what follows the last one's.
    """
    images = options.get(IMAGES) or []
    outputs = [image["clip_vision_output"].image_embeds.float().cpu() for image in images]
    _check(name, augmentation.dim, images, outputs)
    mix = torch.zeros(1, 2 * augmentation.dim)
    total, count, generator = 0.0, 0, torch.Generator()
    for image, embeddings in zip(images, outputs, strict=True):
        generator.manual_seed(image.get("seed", default_seed))
        for embedding in embeddings[:, None]:
            noise = torch.randn(embedding.shape, generator=generator)
            mix += image["strength"] * augmentation(embedding, _level(image["noise_augmentation"]), noise)
            total, count = total + image["strength"], count + 1
    if count == 0:
        return mix
    mix /= total
    if count == 1:
        return mix
    embedding = mix[:, : augmentation.dim]
    level = _level(options.get(MIX_NOISE, MIX_LEVEL / LAST_LEVEL))
    return augmentation(embedding, level, torch.randn(embedding.shape, generator=generator))


def _level(noise: float) -> Tensor:
    return torch.tensor([round(LAST_LEVEL * noise)])


def _check(name: str, dim: int, images: list[dict[str, Any]], embeddings: list[Tensor]) -> None:
    """ValueError where the file `name`, which reads embeddings of `dim` numbers, can make nothing of the pictures."""
    for embedding in embeddings:
        if embedding.shape[-1] != dim:
            raise ValueError(
                f"the picture is encoded to {embedding.shape[-1]} numbers, but {name} reads {dim}; take the "
                "clip_vision from the same checkpoint as the model"
            )
    total = sum(image["strength"] * len(embedding) for image, embedding in zip(images, embeddings, strict=True))
    if images and abs(total) < 1e-6:
        raise ValueError("the weights of the pictures add up to 0, which leaves no mix of them; change one weight")
