"""What each kind of model takes and what a graph gives it: one table, one sentence for every mismatch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from ..models.specs import Condition, ModelSpec
from . import control, depth, inpaint, regions, unclip, upscale
from .types import Conditioning


@dataclass(frozen=True, kw_only=True)
class Need:
    """One way to condition a model besides the prompt, and how a user sets it."""

    what: str  # in the conditioning
    keys: frozenset[str]  # that carry it
    kinds: str  # of checkpoint that take it, with their official files
    node: str  # that sets it, as the canvas calls it
    instead: str = ""  # what to do without it
    required: str = ""  # the key without which the model cannot be sampled
    otherwise: str = ""  # what to do where the required key is missing


NEEDS: dict[Condition, Need] = {
    "inpaint": Need(
        what="an inpainting mask",
        keys=inpaint.KEYS,
        kinds="v1-inpaint (sd-v1-5-inpainting) or v2-inpaint (512-inpainting-ema)",
        node="SD2 VAE Encode (for Inpainting)",
        instead=" and use VAE Encode with Set Latent Noise Mask, or set inner_steps of SD2 KSampler to 3",
    ),
    "depth": Need(
        what="a depth map",
        keys=depth.KEYS,
        kinds="v2-depth (512-depth-ema)",
        node="SD2 Depth Conditioning",
        required="concat_depth",
        otherwise="or load 512-base-ema to sample without one",
    ),
    "unclip": Need(
        what="an image embedding",
        keys=unclip.KEYS,
        kinds="unclip-h or unclip-l (sd21-unclip-h, sd21-unclip-l)",
        node="SD2 unCLIP Conditioning",
    ),
    "upscale": Need(
        what="an image to upscale",
        keys=upscale.KEYS,
        kinds="x4 (x4-upscaler-ema)",
        node="SD2 Upscale Conditioning",
        required="concat_image",
        otherwise="or load 512-base-ema to sample without one",
    ),
}
UNDERSTOOD = frozenset({"pooled_output"}).union(regions.KEYS, control.KEYS, *(need.keys for need in NEEDS.values()))


def check(name: str, spec: ModelSpec, latent: Tensor, *sides: Conditioning, inner_steps: int = 0) -> None:
    """ValueError where the model `name` cannot be sampled with this conditioning, or not with this latent.

    inner_steps: those of the sampler, with which a model without inpainting channels takes the mask from the latent.
    """
    check_condition(name, spec, *sides, allow=("inpaint",) if inner_steps > 0 else ())
    if spec.condition == "upscale":
        _check_size(name, latent, *sides)
    for context, _ in (entry for side in sides for entry in side):
        check_width(name, spec, context)


def check_condition(name: str, spec: ModelSpec, *sides: Conditioning, allow: Iterable[Condition] = ()) -> None:
    """ValueError where the conditioning has something that the model `name` does not take, or lacks what it needs.

    allow: conditions that the caller handles itself.
    """
    given = _keys(sides)
    model = f"{name} is a checkpoint for {spec.task} (kind {spec.kind})"
    for condition, need in NEEDS.items():
        if given & need.keys and condition not in (spec.condition, *allow):
            raise ValueError(
                f"{model}, but the conditioning has {need.what}, which needs a checkpoint of kind {need.kinds}; load "
                f"one, or remove {need.node}{need.instead}"
            )
    own = NEEDS.get(spec.condition)
    if own and own.required and any(options.get(own.required) is None for side in sides for _, options in side):
        raise ValueError(
            f"{model}, but a prompt reaches the sampler without {own.what}; put {own.node} between the prompts and "
            f"the sampler, {own.otherwise}"
        )


def check_width(name: str, spec: ModelSpec, context: Tensor) -> None:
    """ValueError where the prompt was encoded by the text encoder of another model."""
    if context.shape[-1] != spec.unet.context_dim:
        raise ValueError(
            f"text embeddings are {context.shape[-1]}-dim, but {name} expects {spec.unet.context_dim}; use the clip "
            "output of the same checkpoint"
        )


def check_understood(*sides: Conditioning) -> None:
    """ValueError where the conditioning asks for something that only ComfyUI's own guider does."""
    if unknown := sorted(_keys(sides) - UNDERSTOOD):
        raise ValueError(
            f"the conditioning has {', '.join(unknown)}, which needs ComfyUI; remove the node that sets it, or run "
            "the workflow with --comfyui or --server"
        )


def _check_size(name: str, latent: Tensor, *sides: Conditioning) -> None:
    for _, options in (entry for side in sides for entry in side):
        (height, width), (h, w) = options["concat_image"].shape[-2:], latent.shape[-2:]
        if (height, width) != (h, w):
            raise ValueError(
                f"{name} upscales an image of {width} x {height} and needs a latent of that size, but this one is "
                f"{w} x {h}; use the latent of SD2 Upscale Conditioning, or one encoded by the vae of {name}"
            )


def _keys(sides: Iterable[Conditioning]) -> set[str]:
    """The options that the conditioning sets."""
    options = [item for side in sides for _, entry in side for item in entry.items()]
    return {key for key, value in options if value is not None and value is not False}
