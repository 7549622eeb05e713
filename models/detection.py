"""Detect what a checkpoint is: which of the nine kinds, the sizes of its parts, what its UNet predicts.

Detection uses keys, shapes and metadata; no network is built. `detect` reads a file once, and `models.checkpoint`
builds the networks from its result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from . import hugging_face
from .diffusers_folder import read_folder, read_json
from .foreign_files import what_it_is
from .noise_augmentation import STATISTICS_FILES, Statistics, read_statistics
from .specs import SPECS, AutoencoderSpec, DepthSpec, ImageSpec, ModelSpec, Prediction, TextSpec, UNetSpec
from .weights_file import REST, WeightsFile, majority_dtype, read

State = dict[str, Tensor]

UNET, AUTOENCODER, TEXT, EMA = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "model_ema."
DEPTH = "depth_model.model."
_EXTRAS = ("embedder", "noise_augmentor", "low_scale_model")
GROUP_SIZE = "sd2_family.group_size"  # metadata: channels per group in the autoencoder's norms, where not 32 groups
STATISTICS = ("data_mean", "data_std")  # under noise_augmentor. in some third-party files

_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
}
# CLIP's text half, which the files contain next to the image tower but nothing uses
_TEXT_HALF = re.compile(
    r"model\.(logit_scale|positional_embedding|text_projection|token_embedding\.weight|ln_final\.(weight|bias)"
    r"|transformer\.resblocks\.\d+\..+)"
)


class UnknownKindError(Exception):
    """The tensors match no model of the family; the message is the end of a sentence about the file."""


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
        encoder = "OpenCLIP" if self.spec.text.tower == "openclip-h" else "CLIP-L"
        classes = f", class vectors of {unet.vector_dim}" if unet.vector_dim else ""
        classes += f", {unet.num_classes} classes" if unet.num_classes else ""
        return f"{unet.in_channels} input channels, {encoder} text encoder{classes}"

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
            f"parts: {parts}{weights}{shared}" + (f"\nstatistics of image embeddings: {known}" if known else "")
        )


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The tensors of a file by part, under the keys of our networks."""

    unet: State
    autoencoder: State
    text: State
    depth: State  # empty in most files
    extras: dict[str, State]
    openclip: bool
    ema: bool


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
    parts = _split(file)
    return Detected(inspection=_recognize(file, parts, folder, prediction), parts=parts)


def inspect(path: str | Path, *, prediction: Literal["auto"] | Prediction = "auto") -> Inspection:
    """Return what a checkpoint file or a diffusers folder is, by its keys, shapes and metadata."""
    return detect(path, prediction=prediction).inspection


def _split(file: WeightsFile) -> Parts:
    unet, autoencoder, text = (_under(file.tensors, prefix) for prefix in (UNET, AUTOENCODER, TEXT))
    if not (unet and autoencoder and text):
        raise ValueError(f"{file.name} {what_it_is(file.tensors)}")
    extras = {name: _under(file.tensors, name + ".") for name in _EXTRAS}
    # the moving average's keys are the weights' with every dot removed
    average = {key: file.tensors.get(EMA + "diffusion_model" + key.replace(".", "")) for key in unet}
    complete = {key: tensor for key, tensor in average.items() if tensor is not None}
    ema = len(complete) == len(unet)
    openclip = any(key.startswith("model.") for key in text)
    return Parts(
        unet=complete if ema else unet,
        autoencoder=autoencoder,
        text=text if openclip else hugging_face.text_weights(text),
        depth=_under(file.tensors, DEPTH),
        extras={name: state for name, state in extras.items() if state},
        openclip=openclip,
        ema=ema,
    )


def _under(tensors: State, prefix: str) -> State:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _recognize(file: WeightsFile, parts: Parts, folder: Path, wanted: Literal["auto"] | Prediction) -> Inspection:
    try:
        kind = kind_of(parts.unet, openclip=parts.openclip)
        base = SPECS[kind]
        unet = unet_spec(parts.unet, base.unet)
        autoencoder = replace(
            autoencoder_spec(parts.autoencoder, base.autoencoder), group_size=_whole_number(file, GROUP_SIZE)
        )
        text = text_spec(parts.text, base.text)
        _check_groups(file.name, autoencoder)
        depth = depth_spec(parts.depth) if base.depth and parts.depth else None
        image = _image_spec(parts, base)
    except KeyError as error:
        raise ValueError(f"{file.name} has no {error.args[0]}; download it again or choose another file") from error
    except IndexError as error:
        raise ValueError(f"{file.name} has weights whose rank fits no known model; choose another file") from error
    except UnknownKindError as error:
        raise ValueError(f"{file.name} {error}; choose a checkpoint of kind {', '.join(SPECS)}") from error
    prediction, reason = (
        _prediction(file, parts.unet, base, folder) if wanted == "auto" else (wanted, "set on the loader")
    )
    if kind == "v2-base" and prediction == "v_prediction":
        base = SPECS["v2-v"]
    states = {"unet": parts.unet, "autoencoder": parts.autoencoder, "text": parts.text, **parts.extras}
    if parts.depth:
        states["depth_model"] = parts.depth
    return Inspection(
        name=file.name,
        spec=replace(
            base, unet=unet, autoencoder=autoencoder, text=text, depth=depth, image=image, prediction=prediction
        ),
        reason=reason,
        zero_terminal_snr="ztsnr" in file.tensors or bool(_scheduler(folder)[1].get("rescale_betas_zero_snr")),
        ema=parts.ema,
        dtypes={part: str(majority_dtype(state)).removeprefix("torch.") for part, state in states.items()},
        sizes={part: sum(tensor.numel() for tensor in state.values()) for part, state in states.items()},
        metadata=file.metadata,
        statistics=_statistics(parts, kind, folder),
    )


def _check_groups(name: str, spec: AutoencoderSpec) -> None:
    widths = [spec.channels * mult for mult in spec.channel_mult]
    if spec.group_size is None and (odd := [width for width in widths if width % 32]):
        raise ValueError(
            f"{name} has an autoencoder with {odd[0]} channels, which do not divide into the 32 groups of its norms; "
            "choose another file"
        )


def _whole_number(file: WeightsFile, key: str) -> int | None:
    """Return a positive number from the metadata, or None where it has none."""
    text = file.metadata.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ValueError(f"{file.name} has {key} {text!r} in its metadata, not a whole number; choose another file")
    return int(text)


def _image_spec(parts: Parts, base: ModelSpec) -> ImageSpec | None:
    """Return the image tower's spec, or None if the file has no tower (embeddings from elsewhere still work)."""
    if base.image is None or "embedder" not in parts.extras:
        return None
    embed_dim = parts.unet["label_emb.0.0.weight"].shape[1] // 2
    return image_spec(image_weights(parts.extras["embedder"]), base.image, embed_dim)


def _statistics(parts: Parts, kind: str, folder: Path) -> Statistics | None:
    state = parts.extras.get("noise_augmentor", {})
    if set(STATISTICS) <= set(state):
        mean, std = (state[key].float().flatten() for key in STATISTICS)
        return Statistics(mean, std, "the file itself")
    return read_statistics(folder, parts.unet["label_emb.0.0.weight"].shape[1] // 2) if kind == "unclip-l" else None


def _prediction(file: WeightsFile, unet: State, base: ModelSpec, folder: Path) -> tuple[Prediction, str]:
    """Return what the UNet predicts and the rule that decides it, the first that applies."""
    declared = _PREDICTIONS.get(file.metadata.get("modelspec.prediction_type", "").lower())
    if declared:
        return declared, "the file's metadata, modelspec.prediction_type"
    if "v_pred" in file.tensors:
        return "v_prediction", "the file's key v_pred"
    name, scheduler = _scheduler(folder)
    declared = _PREDICTIONS.get(str(scheduler.get("prediction_type")))
    if declared:
        return declared, f"{name} next to the weights"
    bias = unet.get("output_blocks.11.1.transformer_blocks.0.norm1.bias")
    if base.kind == "v2-base" and bias is not None:
        # 512-base and 768-v differ only in their values; this bias has a wider spread in v models
        spread = bias.float().std(correction=0).item()
        guess: Prediction = "v_prediction" if spread > 0.09 else "epsilon"
        return guess, f"guessed from the weights: the spread of one bias is {spread:.3f}, above 0.09 in v models"
    return base.prediction, f"the default of {base.kind}"


def _scheduler(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return name and content of the scheduler config that diffusers saves, both empty if there is none."""
    for name in ("scheduler/scheduler_config.json", "scheduler_config.json"):
        config = read_json(folder / name)
        if config:
            return name, config
    return "", {}


def kind_of(unet: State, *, openclip: bool) -> str:
    """Return the kind by text encoder, input channels and class conditioning (v2-v counts as v2-base here)."""
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
    }.get((openclip, channels, condition))
    if found is None:
        encoder = "OpenCLIP" if openclip else "CLIP-L"
        raise UnknownKindError(
            f"has {channels} input channels, class condition {condition} and text encoder {encoder}"
        )
    if found != "unclip":
        return found
    # OpenCLIP-H's image embedding is as wide as its text context; CLIP-L's is not
    vector, context = unet["label_emb.0.0.weight"].shape[1], _context_dim(unet)
    return "unclip-h" if vector == 2 * context else "unclip-l"


def _context_dim(unet: State) -> int:
    return unet["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]


def unet_spec(unet: State, base: UNetSpec) -> UNetSpec:
    """Read the sizes from the weights; the heads and the levels of self-attention are the kind's."""
    stem = unet["input_blocks.0.0.weight"]
    levels: list[list[tuple[int, bool]]] = [[]]  # (channels, attention) of each residual block, level by level
    for number in range(1, _count(unet, r"input_blocks\.(\d+)\.")):
        block = f"input_blocks.{number}"
        if f"{block}.0.op.weight" in unet:
            levels.append([])
        else:
            levels[-1].append((unet[f"{block}.0.in_layers.2.weight"].shape[0], f"{block}.1.norm.weight" in unet))
    if not all(levels):
        raise KeyError("residual block in one level of its UNet")
    labels, vectors = unet.get("label_emb.weight"), unet.get("label_emb.0.0.weight")
    return replace(
        base,
        in_channels=stem.shape[1],
        out_channels=unet["out.2.weight"].shape[0],
        model_channels=stem.shape[0],
        channel_mult=tuple(level[0][0] // stem.shape[0] for level in levels),
        num_res_blocks=len(levels[0]),
        attention=tuple(level[0][1] for level in levels),
        self_attention=(base.self_attention[0],) * (len(levels) - 1) + (base.self_attention[-1],),
        context_dim=_context_dim(unet),
        linear_projection=unet["middle_block.1.proj_in.weight"].ndim == 2,
        num_classes=None if labels is None else labels.shape[0],
        vector_dim=None if vectors is None else vectors.shape[1],
    )


def autoencoder_spec(autoencoder: State, base: AutoencoderSpec) -> AutoencoderSpec:
    """Read the sizes from the weights; the latent scale is the kind's."""
    channels = autoencoder["encoder.conv_in.weight"].shape[0]
    levels = range(_count(autoencoder, r"encoder\.down\.(\d+)\."))
    widths = [autoencoder[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in levels]
    return replace(
        base,
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        num_res_blocks=_count(autoencoder, r"encoder\.down\.0\.block\.(\d+)\."),
        latent_channels=autoencoder["decoder.conv_in.weight"].shape[1],
    )


def text_spec(text: State, base: TextSpec) -> TextSpec:
    """Read the sizes from the weights; heads are 64 wide in every tower."""
    width = text["model.positional_embedding"].shape[1]
    layers = _count(text, r"model\.transformer\.resblocks\.(\d+)\.")
    return replace(base, width=width, layers=layers, heads=width // 64)


def depth_spec(state: State) -> DepthSpec:
    """Read the sizes from the weights."""
    vit = "pretrained.model."
    backbone = vit + "patch_embed.backbone."
    stages = [f"{backbone}stages.{index}." for index in range(_count(state, rf"{backbone}stages\.(\d+)\."))]
    width = state[vit + "cls_token"].shape[2]
    return DepthSpec(
        stem=state[backbone + "stem.conv.weight"].shape[0],
        channels=tuple(state[stage + "blocks.0.conv3.weight"].shape[0] for stage in stages),
        depths=tuple(_count(state, rf"{stage}blocks\.(\d+)\.") for stage in stages),
        width=width,
        layers=_count(state, rf"{vit}blocks\.(\d+)\."),
        heads=width // 64,
        grid=math.isqrt(state[vit + "pos_embed"].shape[1] - 1),
        features=state["scratch.layer1_rn.weight"].shape[0],
        classes=state[vit + "head.weight"].shape[0],
    )


def image_spec(state: State, base: ImageSpec, embed_dim: int) -> ImageSpec:
    """Read the sizes from an `ImageTower`'s weights; embed_dim is the UNet's, the head width the kind's."""
    conv, positions = state["visual.conv1.weight"], state["visual.positional_embedding"]
    grid = math.isqrt(positions.shape[0] - 1)
    return replace(
        base,
        width=conv.shape[0],
        layers=_count(state, r"visual\.transformer\.resblocks\.(\d+)\."),
        patch_size=conv.shape[-1],
        image_size=grid * conv.shape[-1],
        embed_dim=embed_dim,
    )


def image_weights(embedder: Mapping[str, Tensor]) -> State:
    """Return the `ImageTower` weights from a file's `embedder.*`, under open_clip's or Hugging Face's names."""
    state = {key.removeprefix("model."): tensor for key, tensor in embedder.items() if not _TEXT_HALF.fullmatch(key)}
    return hugging_face.image_weights(state) if any("vision_model." in key for key in state) else state


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count the distinct numbers that the pattern's group matches in the keys."""
    return len({match[1] for match in (re.match(pattern, key) for key in state) if match})


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
