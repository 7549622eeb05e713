"""From CONDITIONING to a guided denoiser, outside ComfyUI (inside, its own guider does this)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..samplers import Denoise, denoiser, guide
from . import depth, inpaint, unclip, upscale
from .components import Model
from .images import fit_batch
from .types import Conditioning

MAX_REPEATS = 4  # of a short prompt to share a call with a long one; beyond that, two calls are cheaper


@dataclass(frozen=True)
class Entry:
    """One entry of a CONDITIONING, ready for the UNet."""

    context: Tensor  # [B, T, D]
    concat: Tensor | None  # [B, C, h, w]: the UNet's channels after the noisy latent's
    y: Tensor | None  # class conditioning: labels [B] or vectors [B, D]
    strength: float


def guided_denoiser(
    model: Model,
    positive: Conditioning,
    negative: Conditioning,
    latent: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    phi: float,
) -> Denoise:
    """denoise(x, sigma) -> x0 for x like `latent`, with guidance `scale` and its rescaling `phi`.

    latent: [B, 4, h, w] scaled, and mask [B, 1, h, w]: what an inpainting model gets where the conditioning has none.
    """
    sides = [positive] if scale == 1 else [positive, negative]  # at scale 1 the negative side cancels out
    entries = [[_entry(model, context, options, latent, mask) for context, options in side] for side in sides]
    predict = _predictor(model, [entry for side in entries for entry in side])

    def denoise(x: Tensor, sigma: float) -> Tensor:
        predictions = iter(predict(x, sigma))
        x0 = [_average([(next(predictions), entry.strength) for entry in side]) for side in entries]
        if scale == 1:
            return x0[0]
        return guide(x0[0], x0[1], x=x, sigma=sigma, scale=scale, phi=phi, prediction=model.prediction)

    return denoise


def _average(weighted: list[tuple[Tensor, float]]) -> Tensor:
    total = sum(weight for _, weight in weighted) or 1.0
    return torch.stack([x * (weight / total) for x, weight in weighted]).sum(0)


def _predictor(model: Model, entries: list[Entry]) -> Callable[[Tensor, float], list[Tensor]]:
    """predict(x, sigma) -> x0 of each entry, in one call of the UNet where the prompts' lengths allow it."""
    lengths = [entry.context.shape[1] for entry in entries]
    together = math.lcm(*lengths) <= MAX_REPEATS * min(lengths)
    calls = [entries] if together else [[entry] for entry in entries]
    denoisers = [denoiser(_network(model, call), model.schedule, model.prediction) for call in calls]

    def predict(x: Tensor, sigma: float) -> list[Tensor]:
        outputs: list[Tensor] = []
        for call, denoise in zip(calls, denoisers, strict=True):
            outputs += denoise(x.repeat(len(call), 1, 1, 1), sigma).chunk(len(call))
        return outputs

    return predict


def _network(model: Model, entries: list[Entry]) -> Callable[[Tensor, Tensor], Tensor]:
    """The UNet as a function of (x, t), x holding one copy of the batch for each entry."""
    dtype = model.unet.dtype
    upscaler = model.spec.condition == "upscale"
    context = batch_contexts([entry.context for entry in entries]).to(dtype)
    concat, y = _joined([entry.concat for entry in entries]), _joined([entry.y for entry in entries])

    def network(x: Tensor, t: Tensor) -> Tensor:
        def unet(part: Tensor) -> Tensor:
            out: Tensor = model.unet(part.to(dtype), t, context, y)
            return out.float()

        x = x if concat is None else torch.cat([x, concat], dim=1)
        return upscale.in_tiles(unet, x) if upscaler else unet(x)

    return network


def batch_contexts(contexts: Sequence[Tensor]) -> Tensor:
    """Join text embeddings [B, T, D] of several lengths: attention is the same for repeated keys and values."""
    longest = math.lcm(*(context.shape[1] for context in contexts))
    return torch.cat([context.repeat(1, longest // context.shape[1], 1) for context in contexts])


def _joined(tensors: list[Tensor | None]) -> Tensor | None:
    """One batch of what all entries have, or None where none has it."""
    given = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(given) if given else None


def _entry(model: Model, context: Tensor, options: dict[str, Any], latent: Tensor, mask: Tensor | None) -> Entry:
    concat = y = None
    match model.spec.condition:
        case "inpaint":
            concat = inpaint.channels(options, latent, mask, model.spec, model.vae.encode)
        case "depth":
            concat = depth.channel(options, latent)
        case "upscale":
            concat, y = upscale.condition(options, latent)
        case "unclip":
            y = unclip.class_condition(model.name, model.augmentation, options)
            y = fit_batch(y, len(latent)).to(latent.device, model.unet.dtype)
    context = fit_batch(context, len(latent)).to(latent.device)
    return Entry(context, concat, y, float(options.get("strength", 1.0)))
