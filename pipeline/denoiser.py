"""From CONDITIONING to a guided denoiser, outside ComfyUI (inside, its own guider does this)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import compress

import torch
from torch import Tensor

from ..samplers import Denoise, Scale, denoiser, guide, is_guided
from . import control, depth, inpaint, unclip, upscale
from .components import Model
from .images import fit_batch
from .regions import Area, Placed, Region, combine, place
from .types import Conditioning

MAX_REPEATS = 4  # of a short prompt to share a call with a long one; beyond that, two calls are cheaper


@dataclass(frozen=True)
class Entry:
    """One entry of a CONDITIONING, ready for the UNet."""

    context: Tensor  # [B, T, D]
    concat: Tensor | None  # [B, C, h, w]: the UNet's channels after the noisy latent's, in the entry's region
    y: Tensor | None  # class conditioning: labels [B] or vectors [B, D]
    region: Region
    control: control.AppliedControl | None


def guided_denoiser(
    model: Model,
    positive: Conditioning,
    negative: Conditioning,
    latent: Tensor,
    mask: Tensor | None,
    *,
    scale: Scale,
    phi: float,
    seed: int,
) -> Denoise:
    """denoise(x, sigma) -> x0 for x like `latent`, with guidance `scale` and its rescaling `phi`.

    latent: [B, 4, h, w] scaled, and mask [B, 1, h, w]: what an inpainting model gets where the conditioning has none.
    seed: of the noise on image conditions that have no seed of their own.
    """
    sides = place([positive, negative], model.schedule, latent)
    if not is_guided(scale):  # the negative side cancels out
        sides = sides[:1]
    entries = [[_entry(model, placed, latent, mask, seed) for placed in side] for side in sides]

    @cache
    def predictor(covering: tuple[tuple[bool, ...], ...]) -> Callable[[Tensor, float], list[Tensor]]:
        flat = [entry for side, flags in zip(entries, covering, strict=True) for entry in compress(side, flags)]
        return _predictor(model, flat, latent)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        covering = tuple(tuple(entry.region.levels.cover(sigma) for entry in side) for side in entries)
        predictions = iter(predictor(covering)(x, sigma))
        x0 = [
            combine([(next(predictions), entry.region) for entry in compress(side, flags)], x)
            for side, flags in zip(entries, covering, strict=True)
        ]
        if not is_guided(scale):
            return x0[0]
        return guide(x0[0], x0[1], x=x, sigma=sigma, scale=scale, phi=phi, prediction=model.prediction)

    return denoise


def _predictor(model: Model, entries: list[Entry], latent: Tensor) -> Callable[[Tensor, float], list[Tensor]]:
    """predict(x, sigma) -> x0 of each entry in its region, in as few calls of the UNet as their shapes allow."""
    calls = _calls(entries)
    networks = [_network(model, [entries[i] for i in call], latent) for call in calls]

    def predict(x: Tensor, sigma: float) -> list[Tensor]:
        outputs: dict[int, Tensor] = {}
        for call, network in zip(calls, networks, strict=True):
            part = entries[call[0]].region.cut(x)
            denoise = denoiser(partial(network, sigma), model.schedule, model.prediction)
            x0 = denoise(part.repeat(len(call), 1, 1, 1), sigma)
            outputs |= zip(call, x0.chunk(len(call)), strict=True)
        return [outputs[i] for i in range(len(entries))]

    return predict


def _calls(entries: list[Entry]) -> list[list[int]]:
    """The numbers of the entries that share a call: those of one area and ControlNet, if the lengths allow it."""
    groups: dict[tuple[Area | None, control.AppliedControl | None], list[int]] = {}
    for i, entry in enumerate(entries):
        groups.setdefault((entry.region.area, entry.control), []).append(i)
    calls: list[list[int]] = []
    for group in groups.values():
        lengths = [entries[i].context.shape[1] for i in group]
        together = math.lcm(*lengths) <= MAX_REPEATS * min(lengths)
        calls += [group] if together else [[i] for i in group]
    return calls


def _network(model: Model, entries: list[Entry], latent: Tensor) -> Callable[[float, Tensor, Tensor], Tensor]:
    """The UNet as a function of (sigma, x, t), x holding one copy of the batch for each entry."""
    dtype = model.unet.dtype
    upscaler = model.spec.condition == "upscale"
    context = batch_contexts([entry.context for entry in entries]).to(dtype)
    concat, y = _joined([entry.concat for entry in entries]), _joined([entry.y for entry in entries])
    controls = control.place_controls(entries[0].control, model, entries[0].region.cut(latent), len(entries))

    def network(sigma: float, x: Tensor, t: Tensor) -> Tensor:
        residuals = control.total(controls, sigma, x, t, context)

        def unet(part: Tensor) -> Tensor:
            out: Tensor = model.unet(part.to(dtype), t, context, y, residuals)
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


def _entry(model: Model, placed: Placed, latent: Tensor, mask: Tensor | None, seed: int) -> Entry:
    options, concat, y = placed.options, None, None
    match model.spec.condition:
        case "inpaint":
            concat = inpaint.channels(options, latent, mask, model.spec, model.vae.encode)
        case "depth":
            concat = depth.channel(options, latent)
        case "upscale":
            concat, y = upscale.condition(options, latent, seed)
        case "unclip":
            y = unclip.class_condition(model.name, model.augmentation, options, seed, mean=model.mean_of_images)
            y = fit_batch(y, len(latent)).to(latent.device, model.unet.dtype)
    context = fit_batch(placed.context, len(latent)).to(latent.device)
    return Entry(context, None if concat is None else placed.region.cut(concat), y, placed.region, placed.control)
