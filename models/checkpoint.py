"""Load a checkpoint: detect its kind, build the networks on meta, assign the weights strictly."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from .autoencoder import AutoencoderKL
from .clip_image import ImageTower
from .clip_text import CLIPText, OpenCLIPText, TextTower
from .detection import Detected, Inspection, detect
from .midas import DPTHybrid
from .noise_augmentation import NoiseAugmentation
from .parts import (
    AUTOENCODER,
    DEPTH,
    EMBEDDER,
    NOISE,
    TEXT,
    UNET,
    State,
    clip_weights,
    image_weights,
    noise_weights,
    openclip_weights,
)
from .specs import ModelSpec, Prediction, TextSpec
from .unet import UNet
from .weights_file import majority_dtype

Prepare = Callable[[nn.Module], None]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded checkpoint: its frozen networks and the remaining tensors by part."""

    inspection: Inspection
    unet: UNet
    autoencoder: AutoencoderKL | None  # None: the file has none
    text: TextTower | None
    depth: DPTHybrid | None  # of depth checkpoints that include it
    image: ImageTower | None  # of unCLIP checkpoints that include it
    noise_augmentation: NoiseAugmentation | None  # of unCLIP checkpoints
    extras: dict[str, State]  # embedder, noise_augmentor, low_scale_model

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def spec(self) -> ModelSpec:
        return self.inspection.spec

    @property
    def prediction(self) -> Prediction:
        return self.spec.prediction

    @property
    def reason(self) -> str:
        return self.inspection.reason

    @property
    def report(self) -> str:
        return str(self.inspection)


def load_checkpoint(
    path: str | Path,
    *,
    prediction: Literal["auto"] | Prediction = "auto",
    dtype: torch.dtype | None = None,
    prepare: Prepare | None = None,
) -> Checkpoint:
    """Load a checkpoint file or diffusers folder of any of the nine kinds: `build(detect(path))`."""
    return build(detect(path, prediction=prediction), dtype=dtype, prepare=prepare)


def build(detected: Detected, *, dtype: torch.dtype | None = None, prepare: Prepare | None = None) -> Checkpoint:
    """Build the networks of a detected file and load their weights; dtype None keeps the file's dtype.

    prepare: called with the UNet, the autoencoder and the text tower while each is on meta; it may replace layers with
    others that have the same parameters. Raises ValueError if keys, shapes or values do not fit.
    """
    inspection, parts, spec = detected.inspection, detected.parts, detected.inspection.spec
    if inspection.missing:
        logging.getLogger("sd2_family").warning(inspection.missing)
    name = detected.name
    with torch.device("meta"):
        unet = UNet(spec.unet)
        autoencoder = AutoencoderKL(spec.autoencoder) if parts.autoencoder else None
        text = text_tower(spec.text) if parts.text else None
    fill(unet, parts.unet, name, UNET, dtype, prepare)
    if autoencoder is not None:
        fill(autoencoder, parts.autoencoder, name, AUTOENCODER, dtype, prepare)
    if text is not None:
        openclip = spec.text.tower == "openclip-h"
        weights = openclip_weights(parts.text, cut=parts.text_is_cut) if openclip else clip_weights(parts.text)
        fill(text, weights, name, TEXT, dtype, prepare)
    return Checkpoint(
        inspection=inspection,
        unet=unet,
        autoencoder=autoencoder,
        text=text,
        depth=_depth_estimator(detected),
        image=_image_tower(detected, dtype),
        noise_augmentation=_noise_augmentation(detected),
        extras=parts.extras,
    )


def inspect(path: str | Path) -> Inspection:
    """Load a checkpoint and return what it is, so that the verdict is the loader's in every case."""
    return load_checkpoint(path).inspection


def text_tower(spec: TextSpec) -> TextTower:
    """Build the tower of a spec."""
    return OpenCLIPText(spec) if spec.tower == "openclip-h" else CLIPText(spec)


def _depth_estimator(detected: Detected) -> DPTHybrid | None:
    """Build the depth estimator in the file's dtype; its user chooses the precision to compute in."""
    spec = detected.inspection.spec.depth
    if spec is None:
        return None
    with torch.device("meta"):
        depth = DPTHybrid(spec)
    fill(depth, detected.parts.depth, detected.name, DEPTH, None)
    return depth


def _image_tower(detected: Detected, dtype: torch.dtype | None) -> ImageTower | None:
    spec = detected.inspection.spec.image
    if spec is None:
        return None
    with torch.device("meta"):
        tower = ImageTower(spec)
    fill(tower, image_weights(detected.parts.extras[EMBEDDER]), detected.name, f"{EMBEDDER}.", dtype)
    return tower


def _noise_augmentation(detected: Detected) -> NoiseAugmentation | None:
    vector_dim = detected.inspection.spec.unet.vector_dim
    if vector_dim is None:
        return None
    augmentation = NoiseAugmentation(vector_dim // 2, detected.inspection.statistics)
    given = noise_weights(detected.parts.extras.get(NOISE, {}))  # ComfyUI saves none of it
    fill(augmentation, augmentation.state_dict() | given, detected.name, f"{NOISE}.", torch.float32)
    return augmentation


def fill(
    module: nn.Module,
    state: State,
    name: str,
    prefix: str,
    dtype: torch.dtype | None,
    prepare: Prepare | None = None,
) -> None:
    """Assign the weights to a module on meta in one dtype, require all keys and finite values, and freeze it."""
    _check_keys(module.state_dict(), state, name, prefix)
    if prepare is not None:
        prepare(module)
    dtype = dtype or majority_dtype(state)
    if not dtype.is_floating_point:
        raise ValueError(f"{name} has weights of type {dtype} at {prefix}; choose a file with floating-point weights")
    state = {key: tensor.to(dtype) for key, tensor in state.items()}
    for key, tensor in state.items():
        if not _finite(tensor):
            raise ValueError(f"{name} has NaN or infinite values in {prefix}{key} as {dtype}; choose another file")
    module.load_state_dict(state, strict=True, assign=True)
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_meta:
            raise ValueError(f"{name} has no value for {prefix}{key}; choose another checkpoint")
    module.eval().requires_grad_(False)


def _finite(tensor: Tensor) -> bool:
    """Whether all values are finite; checking only the extremes costs a sixteenth of isfinite."""
    return all(extreme.isfinite() for extreme in tensor.aminmax())


def _check_keys(expected: State, given: State, name: str, prefix: str) -> None:
    """Raise a ValueError that lists all missing, unexpected and misshapen tensors."""
    problems = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "misshapen": [
            f"{key} {list(given[key].shape)} instead of {list(tensor.shape)}"
            for key, tensor in expected.items()
            if key in given and given[key].shape != tensor.shape
        ],
    }
    found = [
        f"{len(keys)} {problem} key{'s' * (len(keys) > 1)} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for problem, keys in problems.items()
        if keys
    ]
    if found:
        raise ValueError(f"{name} does not fit the model at {prefix}: {', '.join(found)}; choose another file")
