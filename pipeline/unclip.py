"""unCLIP conditioning: noised image embeddings as the UNet's class condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.noise_augmentation import LEVELS, NoiseAugmentation
from .notices import notice
from .types import Conditioning, ImageEmbeddings

# ComfyUI's own keys: a list of {clip_vision_output, strength, noise_augmentation}, to which our node adds seed; and
# the noise on the mix of several
IMAGES, MIX_NOISE = "unclip_conditioning", "unclip_noise_augment_merge"
KEYS = frozenset({IMAGES, MIX_NOISE})
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


def with_image(
    conditioning: Conditioning,
    output: ImageEmbeddings,
    *,
    weight: float,
    level: int,
    seed: int,
    mix_level: int = MIX_LEVEL,
) -> Conditioning:
    """Add one more image to every entry of a conditioning; levels are 0..1000, where 1000 counts as 999."""
    image = {
        "clip_vision_output": output,
        "strength": weight,
        "noise_augmentation": min(level, LAST_LEVEL) / LAST_LEVEL,
        "seed": seed,
    }
    mix_noise = min(mix_level, LAST_LEVEL) / LAST_LEVEL
    return [
        [context, {**options, IMAGES: [*options.get(IMAGES, []), image], MIX_NOISE: mix_noise}]
        for context, options in conditioning
    ]


@torch.no_grad()
def class_condition(
    name: str, augmentation: NoiseAugmentation, options: Mapping[str, Any], default_seed: int = 0, *, mean: bool = True
) -> Tensor:
    """The class condition that the file `name` gets from the images in a conditioning: float32 [1, 2 * dim].

    Each image is noised to its own level; several are mixed, sum(weight * vector) / sum(weight), and the mix is noised
    once more. Without any it is zeros, as on the unconditional side. The noise is drawn from the seed of each image,
    on the mix from the draws that follow the last image's. mean False leaves out the division by sum(weight), as the
    models of ComfyUI's own loader do.
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
    if mean:
        mix /= total
    level = _level(options.get(MIX_NOISE, MIX_LEVEL / LAST_LEVEL))
    if count == 1:
        idle = {f"weight {total:g}": mean and total != 1, f"mix_noise_level {int(level)}": int(level) != MIX_LEVEL}
        for setting in (name for name, changed in idle.items() if changed):
            notice(f"{setting} has no effect on a single image; add another SD2 unCLIP Conditioning to mix images")
        return mix
    embedding = mix[:, : augmentation.dim]
    mixed: Tensor = augmentation(embedding, level, torch.randn(embedding.shape, generator=generator))
    return mixed


def _level(noise: float) -> Tensor:
    return torch.tensor([round(LAST_LEVEL * noise)])


def _check(name: str, dim: int, images: Sequence[Mapping[str, Any]], embeddings: Sequence[Tensor]) -> None:
    """ValueError where embeddings are not `dim` wide, as the file `name` expects, or their weights cancel."""
    for embedding in embeddings:
        if embedding.shape[-1] != dim:
            raise ValueError(
                f"image embeddings are {embedding.shape[-1]}-dim, but {name} expects {dim}; use the clip_vision "
                "output of the same checkpoint"
            )
    total = sum(image["strength"] * len(embedding) for image, embedding in zip(images, embeddings, strict=True))
    if images and abs(total) < 1e-6:
        raise ValueError("the weights of the images add up to 0, so they have no mean; change one weight")
