"""Load a checkpoint: read, split by prefix, recognise, build on meta, assign, strict.

The file says which of the nine kinds it is and how wide its parts are; `SPECS` adds what shapes cannot say.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .autoencoder import AutoencoderKL
from .clip_image import ImageTower, image_spec, image_weights
from .clip_text import CLIPText, OpenCLIPText, TextTower, from_hugging_face
from .diffusers_folder import read_folder, read_json
from .files import REST, WeightsFile, read
from .midas import DPTHybrid, depth_spec
from .noise_augmentation import STATISTICS_FILES, NoiseAugmentation, Statistics, read_statistics
from .recognition import UnknownKindError, autoencoder_spec, kind_of, text_spec, unet_spec
from .specs import SPECS, DepthSpec, ImageSpec, ModelSpec, Prediction
from .unet import UNet

State = dict[str, Tensor]

_UNET, _AUTOENCODER, _TEXT, _EMA = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "model_ema."
_DEPTH = "depth_model.model."
_EXTRAS = ("embedder", "noise_augmentor", "low_scale_model")
_STATISTICS = ("data_mean", "data_std")  # under noise_augmentor., in files made by others

# what a file without the three parts is, by its keys; the first match speaks
_OTHER_FILES = (
    (
        r"^lora_(unet|te\d?)_|\.lora_(down|up|A|B)\b|\.hada_w1|\.lokr_w1",
        "a LoRA; load it with a LoRA loader after a checkpoint",
    ),
    (
        r"^control_model\.|zero_convs\.|controlnet_cond_embedding\.",
        "a ControlNet; load it with a ControlNet loader after a checkpoint",
    ),
    (r"^conditioner\.embedders\.", "an SDXL checkpoint; choose a Stable Diffusion 1.x or 2.x one"),
    (r"(^|\.)joint_blocks\.", "a Stable Diffusion 3 model; choose a Stable Diffusion 1.x or 2.x checkpoint"),
    (r"(^|\.)double_blocks\.", "a Flux model; choose a Stable Diffusion 1.x or 2.x checkpoint"),
    (
        r"^(down|up)_blocks\.\d",
        "a UNet in diffusers' format; choose the whole folder, or the single-file checkpoint of the same model",
    ),
    (r"^(model\.diffusion_model\.)?input_blocks\.\d", "a UNet alone; use the full checkpoint of the same model"),
    (r"^(first_stage_model\.)?(en|de)coder\.(up|down|mid)", "an autoencoder (VAE) alone; load it with a VAE loader"),
    (
        r"(^|\.)text_model\.|^(cond_stage_model\.)?(model\.)?transformer\.resblocks\.",
        "a text encoder alone; use the full checkpoint of the same model",
    ),
    (r"^(string_to_param|emb_params|clip_[lg])$", "a textual-inversion embedding; choose a checkpoint"),
)

_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
}


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a checkpoint file is, known without building anything."""

    name: str
    spec: ModelSpec  # with the file's own sizes and its prediction
    reason: str  # why the prediction was chosen
    zero_terminal_snr: bool  # trained on the rescaled noise schedule: a key ztsnr or the scheduler's config say so
    ema: bool  # the UNet's weights are the file's moving average
    dtypes: dict[str, str]
    sizes: dict[str, int]  # parameters per part
    metadata: dict[str, str]
    statistics: Statistics | None = None  # of the image embeddings (unCLIP)

    @property
    def missing(self) -> str:
        """What the model was trained with and its file does not hold, in a sentence; empty where nothing."""
        if self.spec.kind != "unclip-l" or self.statistics is not None:
            return ""
        return (
            f"{self.name} does not say the mean and the deviation of its image embeddings, so the noise on them is of "
            f"a wrong size; put {STATISTICS_FILES[0]} beside it and load it again"
        )

    @property
    def evidence(self) -> str:
        """What tells the kind."""
        unet = self.spec.unet
        encoder = "OpenCLIP" if self.spec.text.tower == "openclip-h" else "CLIP-L"
        classes = f", class vectors of {unet.vector_dim}" if unet.vector_dim else ""
        classes += f", {unet.num_classes} classes" if unet.num_classes else ""
        return f"{unet.in_channels} input channels, {encoder} text encoder{classes}"

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {_millions(n)} {self.dtypes[part]}" for part, n in self.sizes.items())
        weights = "; the UNet's moving average (EMA) weights are used" if self.ema else ""
        known = self.missing or (self.statistics and f"from {self.statistics.source}")
        rest = self.metadata.get(REST)
        shared = f"; parts that the file does not hold are those of {rest}" if rest else ""
        schedule = ", zero terminal SNR" if self.zero_terminal_snr else ""
        return (
            f"{self.name}: {self.spec.kind}, {self.spec.task} ({self.evidence})\n"
            f"prediction: {self.spec.prediction} ({self.reason}){schedule}\n"
            f"parts: {parts}{weights}{shared}" + (f"\nstatistics of image embeddings: {known}" if known else "")
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded checkpoint: its frozen modules, and the rest of the file by part for those who need it."""

    inspection: Inspection
    unet: UNet
    autoencoder: AutoencoderKL
    text: TextTower
    depth: DPTHybrid | None  # in depth checkpoints that hold theirs
    image: ImageTower | None  # in unCLIP checkpoints that hold theirs
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


@dataclass(frozen=True, kw_only=True)
class _Parts:
    unet: State
    autoencoder: State
    text: State
    depth: State  # empty in most files
    extras: dict[str, State]
    openclip: bool
    ema: bool


def inspect(path: str | Path, *, prediction: Literal["auto"] | Prediction = "auto") -> Inspection:
    """Say what a checkpoint, a file or a folder that diffusers saved, is from its keys, shapes and metadata."""
    file, folder = _read(Path(path))
    return _recognise(file, _split(file), folder, prediction)


def load_checkpoint(
    path: str | Path,
    *,
    prediction: Literal["auto"] | Prediction = "auto",
    dtype: torch.dtype | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
) -> Checkpoint:
    """Load any of the nine kinds; `prediction` overrides what the file says, dtype None keeps the file's.

    A path to a folder that diffusers saved is read as the single file of the same model.

    `prepare` is called with the UNet, the autoencoder and the text tower while each is on meta, and may replace layers
    by others with the same parameters.
    """
    file, folder = _read(Path(path))
    parts = _split(file)
    inspection = _recognise(file, parts, folder, prediction)
    spec = inspection.spec
    if inspection.missing:
        logging.getLogger("sd2_family").warning(inspection.missing)
    with torch.device("meta"):
        unet, autoencoder = UNet(spec.unet), AutoencoderKL(spec.autoencoder)
        text = OpenCLIPText(spec.text) if parts.openclip else CLIPText(spec.text)
    modules = (
        (unet, parts.unet, _UNET),
        (autoencoder, parts.autoencoder, _AUTOENCODER),
        (text, parts.text, _TEXT),
    )
    for module, state, prefix in modules:
        _check_keys(module.state_dict(), state, file.name, prefix)
        if prepare is not None:
            prepare(module)
        _fill(module, state, file.name, prefix, dtype)
    return Checkpoint(
        inspection=inspection,
        unet=unet,
        autoencoder=autoencoder,
        text=text,
        depth=_depth_estimator(spec.depth, parts.depth, file.name),
        image=_image_tower(file, parts, spec, dtype),
        noise_augmentation=_noise_augmentation(file, parts, inspection),
        extras=parts.extras,
    )


def _depth_estimator(spec: DepthSpec | None, state: State, name: str) -> DPTHybrid | None:
    """The estimator in the file's own dtype: whoever runs it chooses, for depth is made once and wants precision."""
    if spec is None:
        return None
    with torch.device("meta"):
        depth = DPTHybrid(spec)
    _check_keys(depth.state_dict(), state, name, _DEPTH)
    _fill(depth, state, name, _DEPTH, None)
    return depth


def _image_tower(file: WeightsFile, parts: _Parts, spec: ModelSpec, dtype: torch.dtype | None) -> ImageTower | None:
    if spec.image is None:
        return None
    with torch.device("meta"):
        tower = ImageTower(spec.image)
    prefix, state = "embedder.", image_weights(parts.extras["embedder"])
    _check_keys(tower.state_dict(), state, file.name, prefix)
    _fill(tower, state, file.name, prefix, dtype)
    return tower


def _noise_augmentation(file: WeightsFile, parts: _Parts, inspection: Inspection) -> NoiseAugmentation | None:
    spec = inspection.spec
    if spec.unet.vector_dim is None:
        return None
    augmentation = NoiseAugmentation(spec.unet.vector_dim // 2, inspection.statistics)
    state = {key: tensor for key, tensor in parts.extras.get("noise_augmentor", {}).items() if key not in _STATISTICS}
    if state:  # ComfyUI saves none of it
        _check_keys(augmentation.state_dict(), state, file.name, "noise_augmentor.")
        _fill(augmentation, state, file.name, "noise_augmentor.", torch.float32)
    return augmentation


def _read(path: Path) -> tuple[WeightsFile, Path]:
    """The tensors, and the folder of what lies beside them."""
    return (read_folder(path), path) if path.is_dir() else (read(path), path.parent)


def _split(file: WeightsFile) -> _Parts:
    unet, autoencoder, text = (_under(file.tensors, prefix) for prefix in (_UNET, _AUTOENCODER, _TEXT))
    if not (unet and autoencoder and text):
        raise ValueError(f"{file.name} {_what_it_is(file.tensors)}")
    extras = {name: _under(file.tensors, name + ".") for name in _EXTRAS}
    # the moving average's keys are the weights' with every dot removed
    average = {key: file.tensors.get(_EMA + "diffusion_model" + key.replace(".", "")) for key in unet}
    complete = {key: tensor for key, tensor in average.items() if tensor is not None}
    ema = len(complete) == len(unet)
    openclip = any(key.startswith("model.") for key in text)
    return _Parts(
        unet=complete if ema else unet,
        autoencoder=autoencoder,
        text=text if openclip else from_hugging_face(text),
        depth=_under(file.tensors, _DEPTH),
        extras={name: state for name, state in extras.items() if state},
        openclip=openclip,
        ema=ema,
    )


def _under(tensors: State, prefix: str) -> State:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _what_it_is(tensors: State) -> str:
    for pattern, sentence in _OTHER_FILES:
        if any(re.search(pattern, key) for key in tensors):
            return "is " + sentence
    return f"is no Stable Diffusion checkpoint (its first key is {next(iter(tensors))}); choose a 1.x or 2.x one"


def _recognise(file: WeightsFile, parts: _Parts, folder: Path, wanted: Literal["auto"] | Prediction) -> Inspection:
    try:
        kind = kind_of(parts.unet, openclip=parts.openclip)
        base = SPECS[kind]
        unet = unet_spec(parts.unet, base.unet)
        autoencoder = autoencoder_spec(parts.autoencoder, base.autoencoder)
        text = text_spec(parts.text, base.text)
        depth = depth_spec(parts.depth) if base.depth and parts.depth else None
        image = _image_spec(parts, base)
    except KeyError as error:
        raise ValueError(f"{file.name} holds no {error.args[0]}; download it again or choose another") from error
    except IndexError as error:
        raise ValueError(
            f"{file.name} holds weights of another rank than any known model's; choose another"
        ) from error
    except UnknownKindError as error:
        raise ValueError(f"{file.name} {error}; choose one of {', '.join(SPECS)}") from error
    prediction, reason = (
        _prediction(file, parts.unet, base, folder) if wanted == "auto" else (wanted, "chosen by hand")
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
        dtypes={part: str(_dtype(state)).removeprefix("torch.") for part, state in states.items()},
        sizes={part: sum(tensor.numel() for tensor in state.values()) for part, state in states.items()},
        metadata=file.metadata,
        statistics=_statistics(parts, kind, folder),
    )


def _image_spec(parts: _Parts, base: ModelSpec) -> ImageSpec | None:
    """None where the file has no image tower: it can still be guided by embeddings made elsewhere."""
    if base.image is None or "embedder" not in parts.extras:
        return None
    embed_dim = parts.unet["label_emb.0.0.weight"].shape[1] // 2
    return image_spec(image_weights(parts.extras["embedder"]), base.image, embed_dim)


def _statistics(parts: _Parts, kind: str, folder: Path) -> Statistics | None:
    state = parts.extras.get("noise_augmentor", {})
    if set(_STATISTICS) <= set(state):
        mean, std = (state[key].float().flatten() for key in _STATISTICS)
        return Statistics(mean, std, "the file itself")
    return read_statistics(folder, parts.unet["label_emb.0.0.weight"].shape[1] // 2) if kind == "unclip-l" else None


def _prediction(file: WeightsFile, unet: State, base: ModelSpec, folder: Path) -> tuple[Prediction, str]:
    """What the UNet predicts, and the rule that said so; the first rule that applies speaks."""
    declared = _PREDICTIONS.get(file.metadata.get("modelspec.prediction_type", "").lower())
    if declared:
        return declared, "the file's metadata, modelspec.prediction_type"
    if "v_pred" in file.tensors:
        return "v_prediction", "the file's key v_pred"
    name, scheduler = _scheduler(folder)
    declared = _PREDICTIONS.get(str(scheduler.get("prediction_type")))
    if declared:
        return declared, f"{name} beside the weights"
    bias = unet.get("output_blocks.11.1.transformer_blocks.0.norm1.bias")
    if base.kind == "v2-base" and bias is not None:
        # 512-base and 768-v differ in nothing but their values; this bias is spread wider in v models
        spread = bias.float().std(correction=0).item()
        guess: Prediction = "v_prediction" if spread > 0.09 else "epsilon"
        return guess, f"guessed from the weights: a norm's bias has a spread of {spread:.3f}, v models above 0.09"
    return base.prediction, f"the default of {base.kind}"


def _scheduler(folder: Path) -> tuple[str, dict[str, Any]]:
    """Name and content of diffusers' description of the scheduler; empty where there is none."""
    for name in ("scheduler/scheduler_config.json", "scheduler_config.json"):
        config = read_json(folder / name)
        if config:
            return name, config
    return "", {}


def _fill(module: nn.Module, state: State, name: str, prefix: str, dtype: torch.dtype | None) -> None:
    """Put the weights in a module on meta: strict, finite, one dtype, frozen."""
    dtype = dtype or _dtype(state)
    state = {key: tensor.to(dtype) for key, tensor in state.items()}
    for key, tensor in state.items():
        if not _finite(tensor):
            raise ValueError(f"{name} holds NaN or infinite values in {prefix}{key} as {dtype}; choose another file")
    module.load_state_dict(state, strict=True, assign=True)
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_meta:
            raise ValueError(f"{name} gives {prefix}{key} no value; choose another checkpoint")
    module.eval().requires_grad_(False)


def _finite(tensor: Tensor) -> bool:
    """NaN and infinity show in the extremes, at a sixteenth of isfinite's time."""
    return all(extreme.isfinite() for extreme in tensor.aminmax())


def _check_keys(expected: State, given: State, name: str, prefix: str) -> None:
    """Missing and unexpected keys and other shapes, all of them in one sentence."""
    problems = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "misshapen": [
            f"{key} {list(given[key].shape)} for {list(tensor.shape)}"
            for key, tensor in expected.items()
            if key in given and given[key].shape != tensor.shape
        ],
    }
    found = [
        f"{len(keys)} {problem} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for problem, keys in problems.items()
        if keys
    ]
    if found:
        raise ValueError(f"{name} does not fit under {prefix}: keys {', '.join(found)}; choose another file")


def _dtype(state: State) -> torch.dtype:
    """The dtype of most parameters; float16 where that is an 8-bit one, in which nothing can be computed."""
    counts: Counter[torch.dtype] = Counter()
    for tensor in state.values():
        counts[tensor.dtype] += tensor.numel()
    most = counts.most_common(1)[0][0]
    return most if most.itemsize > 1 else torch.float16


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
