"""From CONDITIONING to a guided denoiser, outside ComfyUI (inside, its own guider does this)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.specs import SPECS, ModelSpec
from ..samplers import Denoise, denoiser, guide
from . import depthmap, lowres, masks, vision
from .wires import Conditioning

if TYPE_CHECKING:
    from .standalone import Model

INPAINT_CHANNELS = 9  # the noisy latent, the mask, the masked picture's latent
INPAINT_KEYS = {"concat_latent_image", "concat_mask"}
UNDERSTOOD = {"pooled_output", "strength", *INPAINT_KEYS, *depthmap.KEYS, *lowres.KEYS, *vision.KEYS}
GREY = (0.8223, -0.6876, 0.6364, 0.1380)  # of the published autoencoder, scaled
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

    latent: [B, 4, h, w] scaled, and mask [B, 1, h, w]: what an inpainting model sees if the conditioning is silent.
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
    upscaler = model.spec.kind == "x4"
    longest = math.lcm(*(entry.context.shape[1] for entry in entries))
    # attention does not change when every key and value is repeated
    context = torch.cat([entry.context.repeat(1, longest // entry.context.shape[1], 1) for entry in entries]).to(dtype)
    concat, y = _joined([entry.concat for entry in entries]), _joined([entry.y for entry in entries])

    def network(x: Tensor, t: Tensor) -> Tensor:
        def unet(part: Tensor) -> Tensor:
            out: Tensor = model.unet(part.to(dtype), t, context, y)
            return out.float()

        x = x if concat is None else torch.cat([x, concat], dim=1)
        return lowres.in_tiles(unet, x) if upscaler else unet(x)

    return network


def _joined(tensors: list[Tensor | None]) -> Tensor | None:
    """One batch of what every entry has, or None has."""
    given = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(given) if given else None


def _entry(model: Model, context: Tensor, options: dict[str, Any], latent: Tensor, mask: Tensor | None) -> Entry:
    check_width(model.name, model.spec, context)
    concat = y = None
    if model.spec.unet.in_channels == INPAINT_CHANNELS:
        concat = _inpaint_channels(model, options, latent, mask)
    elif model.spec.unet.in_channels == depthmap.DEPTH_CHANNELS:
        concat = depthmap.channel(options, latent)
    elif model.spec.kind == "x4":
        concat, y = lowres.condition(options, latent)
    elif model.noise_augmentation is not None:
        y = vision.class_condition(model.name, model.noise_augmentation, options)
        y = masks.fit_batch(y, len(latent)).to(latent.device, model.unet.dtype)
    context = masks.fit_batch(context, len(latent)).to(latent.device)
    return Entry(context, concat, y, float(options.get("strength", 1.0)))


def _inpaint_channels(model: Model, options: dict[str, Any], latent: Tensor, mask: Tensor | None) -> Tensor:
    """[B, 5, h, w]: the mask and the masked picture's scaled latent; ComfyUI's choice where they are not given."""
    height, width = latent.shape[-2:]
    scale = model.spec.autoencoder.scale
    mask, picture = options.get("concat_mask", mask), options.get("concat_latent_image")
    if mask is None:
        mask = latent.new_ones(1, 1, height, width)
        picture = grey_latent(model.spec, model.vae.encode).expand(1, -1, height, width)
    elif picture is None:
        picture = latent
    else:
        picture = scale * picture.float()
    if picture.shape[-2:] != latent.shape[-2:]:
        picture = F.interpolate(picture, size=(height, width), mode="bilinear")
    mask = masks.to_latent(mask, height, width).round()  # ComfyUI's rule: a half becomes 0
    return torch.cat([masks.fit_batch(x, len(latent)).to(latent.device) for x in (mask, picture)], dim=1)


def grey_latent(spec: ModelSpec, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """[1, 4, 1, 1], scaled: the colour that a picture masked everywhere has in latents, ComfyUI's choice at any size.

    ComfyUI's constants hold for the published autoencoder; a narrow one's own is asked for.
    encode: pictures [B, H, W, 3] in 0..1 -> latents, unscaled.
    """
    if spec.autoencoder == SPECS[spec.kind].autoencoder:
        return torch.tensor(GREY).reshape(1, 4, 1, 1)
    grey = encode(torch.full((1, 64, 64, 3), 0.5))[:, :, 2:-2, 2:-2]  # the border sees the padding
    return spec.autoencoder.scale * grey.float().mean((2, 3), keepdim=True)


def keep_unmasked(denoise: Denoise, latent: Tensor, noise: Tensor, mask: Tensor) -> Denoise:
    """Hold everything outside mask [B, 1, h, w] at `latent`, noised with the same noise to each sigma."""

    def masked(x: Tensor, sigma: float) -> Tensor:
        x = (latent + sigma * noise).lerp(x, mask)
        return latent.lerp(denoise(x, sigma), mask)

    return masked


def hold_unmasked(x: Tensor, latent: Tensor, mask: Tensor) -> Tensor:
    """The end of a masked run: what is wholly unmasked (mask 0) is `latent` again, whatever noise the solver left."""
    return torch.where(mask > 0, x, latent)


def check(name: str, spec: ModelSpec, latent: Tensor, *sides: Conditioning) -> None:
    """ValueError where the model `name` cannot be sampled, or not with this conditioning or latent."""
    if spec.kind == "x4":
        lowres.check(name, latent, *sides)
    if _keys(sides) & INPAINT_KEYS and spec.unet.in_channels != INPAINT_CHANNELS:
        wanted = "v1-inpaint (sd-v1-5-inpainting)" if spec.kind.startswith("v1") else "v2-inpaint (512-inpainting-ema)"
        raise ValueError(
            f"{name} is a checkpoint for {spec.task} (kind {spec.kind}), but this graph sets inpainting "
            f"conditioning, which needs kind {wanted}; load that, or leave SD2VAEEncodeForInpaint out and use "
            "VAEEncode with SetLatentNoiseMask for masked image-to-image"
        )
    check_pictures(name, spec, *sides)


def check_pictures(name: str, spec: ModelSpec, *sides: Conditioning) -> None:
    """ValueError where a picture or a depth map is to guide a model that does not know how to, or is lacking."""
    depthmap.check(name, spec, *sides)
    if _keys(sides) & vision.KEYS and spec.unet.vector_dim is None:
        raise ValueError(
            f"{name} is a checkpoint for {spec.task} (kind {spec.kind}), but this graph sets a picture as condition, "
            "which needs kind unclip-h or unclip-l (sd21-unclip-h, sd21-unclip-l); load one of them with its own "
            "clip_vision, or leave SD2UnCLIPConditioning out"
        )
    if _keys(sides) & lowres.KEYS and spec.kind != "x4":
        raise ValueError(
            f"{name} is a checkpoint for {spec.task} (kind {spec.kind}), but this graph sets upscale conditioning, "
            "which needs kind x4 (x4-upscaler-ema); load that, or leave SD2UpscaleConditioning out"
        )


def check_width(name: str, spec: ModelSpec, context: Tensor) -> None:
    """ValueError where the prompt was encoded by the text encoder of another model."""
    if context.shape[-1] != spec.unet.context_dim:
        raise ValueError(
            f"the prompt is encoded to {context.shape[-1]} numbers a token, but {name} reads {spec.unet.context_dim}; "
            "take the clip from the same checkpoint as the model"
        )


def check_understood(*sides: Conditioning) -> None:
    """ValueError where the conditioning asks for something that only ComfyUI's own guider does."""
    if unknown := sorted(_keys(sides) - UNDERSTOOD):
        raise ValueError(
            f"the conditioning carries {', '.join(unknown)}, which is only understood inside ComfyUI; "
            "take out the node that sets it"
        )


def _keys(sides: Iterable[Conditioning]) -> set[str]:
    """What the conditioning sets."""
    options = [item for side in sides for _, entry in side for item in entry.items()]
    return {key for key, value in options if value is not None and value is not False}
