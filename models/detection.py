"""Detect what a checkpoint is: which of the nine kinds, the sizes of its parts, what its UNet predicts.

Detection uses keys, shapes and metadata; no network is built. `detect` reads a file once, and `models.checkpoint`
builds the networks from its result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from .diffusers_folder import read_folder, read_json
from .noise_augmentation import STATISTICS_FILES, Statistics, read_statistics
from .parts import EMBEDDER, NOISE, STATISTICS, Parts, State, image_weights, split
from .sizes import (
    UnknownKindError,
    autoencoder_spec,
    depth_spec,
    image_spec,
    text_spec,
    unet_spec,
    width_of_context,
)
from .specs import SPECS, AutoencoderSpec, ImageSpec, ModelSpec, Prediction, TextSpec
from .weights_file import REST, WeightsFile, majority_dtype, read

GROUP_SIZE = "sd2_family.group_size"  # metadata: channels per group in the autoencoder's norms, where not 32 groups

_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
}


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a checkpoint is, without its weights."""

    name: str
    spec: ModelSpec  # with the sizes and the prediction of this file
    reason: str  # how the prediction was determined
    zero_terminal_snr: bool  # trained on the rescaled noise schedule, by a key ztsnr or the scheduler's config
    ema: bool  # the UNet uses the file's moving-average weights
    dtypes: dict[str, str]
    sizes: dict[str, int]  # parameters per part
    metadata: dict[str, str]
    notes: tuple[str, ...] = ()  # sentences about what the file lacks and what of it is not used
    statistics: Statistics | None = None  # of the image embeddings (unCLIP)

    @property
    def missing(self) -> str:
        """A sentence about what the model needs but its file lacks, or an empty string."""
        if self.spec.kind != "unclip-l" or self.statistics is not None:
            return ""
        return (
            f"{self.name} lacks the mean and standard deviation of its image embeddings, so the noise on them has the "
            f"wrong scale; put {STATISTICS_FILES[0]} in the same folder and load it again"
        )

    @property
    def evidence(self) -> str:
        """The properties that determine the kind."""
        unet = self.spec.unet
        family = "2.x" if unet.linear_projection else "1.x"
        classes = f", class vectors of {unet.vector_dim}" if unet.vector_dim else ""
        classes += f", {unet.num_classes} classes" if unet.num_classes else ""
        return f"a {family} UNet with {unet.in_channels} input channels{classes}"

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {_millions(n)} {self.dtypes[part]}" for part, n in self.sizes.items())
        weights = "; UNet weights: moving average (EMA)" if self.ema else ""
        known = self.missing or (self.statistics and f"from {self.statistics.source}")
        rest = self.metadata.get(REST)
        shared = f"; other parts from {rest}" if rest else ""
        schedule = ", zero terminal SNR" if self.zero_terminal_snr else ""
        return (
            f"{self.name}: {self.spec.kind}, {self.spec.task} ({self.evidence})\n"
            f"prediction: {self.spec.prediction} ({self.reason}){schedule}\n"
            f"parts: {parts}{weights}{shared}"
            + (f"\nstatistics of image embeddings: {known}" if known else "")
            + "".join(f"\nnote: {note}" for note in self.notes)
        )


@dataclass(frozen=True, kw_only=True)
class Detected:
    """A file that has been read and recognized, ready for `checkpoint.build`."""

    inspection: Inspection
    parts: Parts

    @property
    def name(self) -> str:
        return self.inspection.name


def detect(path: str | Path, *, prediction: Literal["auto"] | Prediction = "auto") -> Detected:
    """Read and recognize a checkpoint file or a folder in diffusers format; its tensors stay on disk until used.

    prediction: "auto", or a value that overrides the file. Raises ValueError if it is not a checkpoint of the family.
    """
    path = Path(path)
    file, folder = (read_folder(path), path) if path.is_dir() else (read(path), path.parent)
    parts = split(file)
    return Detected(inspection=_recognize(file, parts, folder, prediction), parts=parts)


def inspect(path: str | Path, *, prediction: Literal["auto"] | Prediction = "auto") -> Inspection:
    """Return what a checkpoint file or a diffusers folder is, by its keys, shapes and metadata."""
    return detect(path, prediction=prediction).inspection


def _recognize(file: WeightsFile, parts: Parts, folder: Path, wanted: Literal["auto"] | Prediction) -> Inspection:
    try:
        base = SPECS[kind_of(parts.unet)]
        spec = replace(
            base,
            unet=unet_spec(parts.unet, base.unet),
            autoencoder=_autoencoder_spec(file, parts, base.autoencoder),
            text=_text_spec(parts, base.text),
            depth=depth_spec(parts.depth) if base.depth and parts.depth else None,
            image=_image_spec(parts, base),
        )
    except KeyError as error:
        raise ValueError(f"{file.name} has no {error.args[0]}; download it again or choose another file") from error
    except IndexError as error:
        raise ValueError(f"{file.name} has weights whose rank fits no known model; choose another file") from error
    except UnknownKindError as error:
        raise ValueError(f"{file.name} {error}; choose a checkpoint of kind {', '.join(SPECS)}") from error
    prediction, reason = (
        _prediction(file, parts.unet, base, folder) if wanted == "auto" else (wanted, "set on the loader")
    )
    if spec.kind == "v2-base" and prediction == "v_prediction":
        spec = replace(spec, kind="v2-v", file=SPECS["v2-v"].file, size=SPECS["v2-v"].size)
    spec = replace(spec, prediction=prediction, size=_resolution(file) or spec.size)
    states = {"unet": parts.unet, "autoencoder": parts.autoencoder, "text": parts.text, **parts.extras}
    states = {part: state for part, state in (states | {"depth_model": parts.depth}).items() if state}
    return Inspection(
        name=file.name,
        spec=spec,
        reason=reason,
        zero_terminal_snr="ztsnr" in file.tensors or bool(_scheduler(folder)[1].get("rescale_betas_zero_snr")),
        ema=parts.ema,
        dtypes={part: str(majority_dtype(state)).removeprefix("torch.") for part, state in states.items()},
        sizes={part: sum(tensor.numel() for tensor in state.values()) for part, state in states.items()},
        metadata=file.metadata,
        notes=tuple(parts.notes),
        statistics=_statistics(parts, spec.kind, folder),
    )


def _autoencoder_spec(file: WeightsFile, parts: Parts, base: AutoencoderSpec) -> AutoencoderSpec:
    """Read the autoencoder's sizes; it belongs to the UNet if both have latents of as many channels."""
    if not parts.autoencoder:
        return base
    spec = replace(autoencoder_spec(parts.autoencoder, base), group_size=_whole_number(file, GROUP_SIZE))
    channels = parts.unet["out.2.weight"].shape[0]
    if spec.latent_channels != channels:
        raise UnknownKindError(
            f"has an autoencoder with {spec.latent_channels} latent channels and a UNet with {channels}, parts of two "
            "models"
        )
    _check_groups(spec)
    return spec


def _text_spec(parts: Parts, base: TextSpec) -> TextSpec:
    """Read the text encoder's sizes; it belongs to the UNet if it is as wide as the context that the UNet takes."""
    if not parts.text:
        return base
    spec = text_spec(parts.text, base, cut=parts.text_is_cut)
    context = width_of_context(parts.unet)
    if spec.width != context:
        raise UnknownKindError(
            f"has a text encoder {spec.width} wide and a UNet that takes text {context} wide, parts of two models"
        )
    return spec


def _check_groups(spec: AutoencoderSpec) -> None:
    widths = [spec.channels * mult for mult in spec.channel_mult]
    if spec.group_size is None and (odd := [width for width in widths if width % 32]):
        raise UnknownKindError(
            f"has an autoencoder with {odd[0]} channels, which do not divide into the 32 groups of its norms"
        )


def _whole_number(file: WeightsFile, key: str) -> int | None:
    """Return a positive number from the metadata, or None where it has none."""
    text = file.metadata.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ValueError(f"{file.name} has {key} {text!r} in its metadata, not a whole number; choose another file")
    return int(text)


def _resolution(file: WeightsFile) -> int | None:
    """Return the shorter side in pixels of the images that the metadata names, such as 768x768; None without one."""
    match = re.fullmatch(r"\s*(\d{2,5})\s*x\s*(\d{2,5})\s*", file.metadata.get("modelspec.resolution", ""))
    return None if match is None else min(int(match[1]), int(match[2]))


def _image_spec(parts: Parts, base: ModelSpec) -> ImageSpec | None:
    """Return the image tower's spec, or None if the file has no tower (embeddings from elsewhere still work)."""
    if base.image is None or EMBEDDER not in parts.extras:
        return None
    embed_dim = parts.unet["label_emb.0.0.weight"].shape[1] // 2
    return image_spec(image_weights(parts.extras[EMBEDDER]), base.image, embed_dim)


def _statistics(parts: Parts, kind: str, folder: Path) -> Statistics | None:
    state = parts.extras.get(NOISE, {})
    if set(STATISTICS) <= set(state):
        mean, std = (state[key].float().flatten() for key in STATISTICS)
        return Statistics(mean, std, "the file itself")
    return read_statistics(folder, parts.unet["label_emb.0.0.weight"].shape[1] // 2) if kind == "unclip-l" else None


def _prediction(file: WeightsFile, unet: State, base: ModelSpec, folder: Path) -> tuple[Prediction, str]:
    """Return what the UNet predicts and the rule that decides it, the first that applies."""
    declared = _declared(file, file.metadata.get("modelspec.prediction_type"), "the file's metadata")
    if declared:
        return declared, "the file's metadata, modelspec.prediction_type"
    if "v_pred" in file.tensors:
        return "v_prediction", "the file's key v_pred"
    name, scheduler = _scheduler(folder)
    declared = _declared(file, scheduler.get("prediction_type"), name)
    if declared:
        return declared, f"{name} next to the weights"
    bias = unet.get("output_blocks.11.1.transformer_blocks.0.norm1.bias")
    if base.kind == "v2-base" and bias is not None:
        # 512-base and 768-v differ only in their values; this bias has a wider spread in v models
        spread = bias.float().std(correction=0).item()
        guess: Prediction = "v_prediction" if spread > 0.09 else "epsilon"
        return guess, f"guessed from the weights: the spread of one bias is {spread:.3f}, above 0.09 in v models"
    return base.prediction, f"the default of {base.kind}"


def _declared(file: WeightsFile, value: object, where: str) -> Prediction | None:
    """Return the prediction that `where` names, None if it names none; ValueError if our samplers have no such one."""
    if not value:
        return None
    prediction = _PREDICTIONS.get(str(value).lower())
    if prediction is None:
        raise ValueError(
            f"{file.name} predicts {value!r}, says {where}, and only epsilon and v_prediction can be sampled; choose "
            "another model, or set prediction on the loader if you know better"
        )
    return prediction


def _scheduler(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return name and content of the scheduler config that diffusers saves, both empty if there is none."""
    for name in ("scheduler/scheduler_config.json", "scheduler_config.json"):
        config = read_json(folder / name)
        if config:
            return name, config
    return "", {}


def kind_of(unet: State) -> str:
    """Return the kind by the UNet's projections, input channels and class condition (v2-v counts as v2-base here)."""
    linear = unet["middle_block.1.proj_in.weight"].ndim == 2  # in 2.x; 1x1 convolutions in 1.x
    channels = unet["input_blocks.0.0.weight"].shape[1]
    condition = "label" if "label_emb.weight" in unet else "vector" if "label_emb.0.0.weight" in unet else "none"
    found = {
        (False, 4, "none"): "v1",
        (False, 9, "none"): "v1-inpaint",
        (True, 4, "none"): "v2-base",
        (True, 9, "none"): "v2-inpaint",
        (True, 5, "none"): "v2-depth",
        (True, 4, "vector"): "unclip",
        (True, 7, "label"): "x4",
    }.get((linear, channels, condition))
    if found is None:
        projections = "linear" if linear else "convolutional"
        raise UnknownKindError(
            f"has {channels} input channels, class condition {condition} and {projections} projections"
        )
    if found != "unclip":
        return found
    # OpenCLIP-H's image embedding is as wide as its text context; CLIP-L's is not
    vector, context = unet["label_emb.0.0.weight"].shape[1], width_of_context(unet)
    return "unclip-h" if vector == 2 * context else "unclip-l"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
