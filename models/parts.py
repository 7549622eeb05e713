"""The parts of a checkpoint file, found by what is there: UNet, autoencoder, text encoder, and what some kinds add.

Each part comes out under the keys of our networks, without what no network reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import ema, hugging_face
from .diffusers_folder import original_keys
from .foreign_files import another_model, what_it_is
from .weights_file import WeightsFile

State = dict[str, Tensor]

UNET, AUTOENCODER, TEXT, DEPTH = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.",
    "depth_model.model.",
)
EMBEDDER, NOISE = "embedder", "noise_augmentor"
STATISTICS = ("data_mean", "data_std")  # under noise_augmentor. in some third-party files
OPENCLIP_LAYERS = 24  # of ViT-H's text tower; 2.x reads all but the last, which some converters leave out

# The keys that are read, of each part. What else a file has under a part's prefix (losses, CLIP's other half, an
# autoencoder's moving average, MiDaS's classifier) is neither required nor refused.
READ = {
    UNET: re.compile(""),
    AUTOENCODER: re.compile(r"(encoder|decoder|quant_conv|post_quant_conv)\."),
    TEXT: re.compile(r"model\.(token_embedding\.|positional_embedding$|transformer\.|ln_final\.)"),
    DEPTH: re.compile(
        r"scratch\.(?!refinenet4\.resConfUnit1\.)|pretrained\.(act_postprocess[34]\.|model\.(?!norm\.|head\.))"
    ),
    EMBEDDER: re.compile(r"visual\."),
    NOISE: re.compile(r"sqrt_(one_minus_)?alphas_cumprod$"),
}
_UNREAD_TEXT = ("model.text_projection", "model.logit_scale")  # of OpenCLIP: our tower has them, nothing reads them
_UNET_KEYS = re.compile(r"(time_embed|label_emb|input_blocks|middle_block|output_blocks|out)\.")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The tensors of a file by part, under the keys of our networks; a part that the file lacks is empty."""

    unet: State
    autoencoder: State
    text: State
    depth: State
    extras: dict[str, State]  # embedder, noise_augmentor, low_scale_model: those that the file has
    text_is_cut: bool = False  # if of 2.x: it lacks the last layer, which nothing reads
    ema: bool = False  # the UNet's weights are their moving average
    notes: list[str] = field(default_factory=list)  # sentences about what was left alone or is missing


def split(file: WeightsFile) -> Parts:
    """Split a file into its parts; ValueError if it has no UNet of the family."""
    found = another_model(file.tensors)
    if found:
        raise ValueError(f"{file.name} is {found}")
    unet, average, notes = _unet(file.tensors)
    autoencoder = autoencoder_weights(_under(file.tensors, AUTOENCODER))
    text, text_is_cut = text_weights(file.tensors)
    if not unet and autoencoder and text:
        raise ValueError(
            f"{file.name} has an autoencoder (VAE) and a text encoder, but no UNet; choose a whole checkpoint"
        )
    if not unet:
        raise ValueError(f"{file.name} {what_it_is(file.tensors)}")
    extras = {name: _under(file.tensors, name + ".") for name in (EMBEDDER, NOISE, "low_scale_model")}
    if not autoencoder:
        notes.append("the file has no autoencoder (VAE); connect one from Load VAE")
    if not text:
        notes.append("the file has no text encoder; connect one from Load CLIP")
    return Parts(
        unet=unet,
        autoencoder=autoencoder,
        text=text,
        depth=_read(_under(file.tensors, DEPTH), DEPTH),
        extras={name: state for name, state in extras.items() if state},
        text_is_cut=text_is_cut,
        ema=average,
        notes=[*file.notes, *notes],
    )


def _unet(tensors: State) -> tuple[State, bool, list[str]]:
    """Return the UNet's weights, whether they are the moving average, and notes on what was not used."""
    places = (_under(tensors, UNET), _under(tensors, UNET.removeprefix("model.")), _bare_unet(tensors))
    unet = next((state for state in places if state), {})
    average = ema.restored(tensors)
    if not average:
        return unet, False, []
    if not unet:
        return average, True, []
    missing = len(unet.keys() - average.keys())
    if missing:
        return (
            unet,
            False,
            [f"the moving average (EMA) in the file lacks {missing} of {len(unet)} tensors and is not used"],
        )
    for key, tensor in unet.items():
        if average[key].shape != tensor.shape:
            shapes = f"{key} is {list(average[key].shape)}, in the UNet {list(tensor.shape)}"
            return unet, False, [f"the moving average (EMA) in the file is of another model and is not used: {shapes}"]
    return {key: average[key] for key in unet}, True, []


def _bare_unet(tensors: State) -> State:
    """Return a UNet whose keys have no prefix, or diffusers' names; a ControlNet has no output blocks."""
    if any(key.startswith("output_blocks.") for key in tensors):
        return {key: tensor for key, tensor in tensors.items() if _UNET_KEYS.match(key)}
    if any(key.startswith("up_blocks.") for key in tensors):
        return _under(original_keys("unet", tensors, {}), UNET)
    return {}


def autoencoder_weights(tensors: State) -> State:
    """Return an autoencoder's weights from keys without a part's prefix, under the authors' or diffusers' names."""
    if any(key.startswith("decoder.up_blocks.") for key in tensors):
        tensors = _under(original_keys("vae", tensors, {}), AUTOENCODER)
    return _read(tensors, AUTOENCODER)


def text_weights(tensors: State) -> tuple[State, bool]:
    """Return the text tower's weights, and whether it is cut, if it is 2.x's: without the last layer, never read.

    An OpenCLIP tower of 24 layers is whole, one of 23 is cut. At other depths what else the file has decides: the
    official layout has a projection or noise schedule beside a whole tower; converters from diffusers write neither.
    """
    given = _under(tensors, TEXT)
    renamed = not any(key.startswith("model.transformer.") for key in given)
    state = hugging_face.text_weights(given) if renamed else given
    weights = _read(state, TEXT) | {key: state[key] for key in _UNREAD_TEXT if key in state}
    layers = len(set(re.findall(r"resblocks\.(\d+)\.", " ".join(weights))))
    if layers in (OPENCLIP_LAYERS - 1, OPENCLIP_LAYERS):
        return weights, layers < OPENCLIP_LAYERS
    whole = any(key in state for key in _UNREAD_TEXT) or ("betas" in tensors and not renamed)
    return weights, not whole


def openclip_weights(text: State, *, cut: bool) -> State:
    """Return a 2.x text tower's weights with values for what nothing reads, where they are missing or do not fit."""
    width = text["model.positional_embedding"].shape[1]
    dtype = text["model.positional_embedding"].dtype
    unread = {
        "model.text_projection": torch.eye(width, dtype=dtype),
        "model.logit_scale": torch.zeros((), dtype=dtype),
    }
    if not cut:
        block = "model.transformer.resblocks."
        last = max(int(key.split(".")[3]) for key in text if key.startswith(block))
        first = {key: tensor for key, tensor in text.items() if key.startswith(f"{block}0.")}
        unread |= {
            key.replace(f"{block}0.", f"{block}{last}.", 1): tensor.new_zeros(tensor.shape)
            for key, tensor in first.items()
        }
    return text | {
        key: default
        for key, default in unread.items()
        if key not in text or text[key].shape != default.shape or not text[key].float().isfinite().all()
    }


def clip_weights(text: State) -> State:
    """Return a 1.x text tower's weights."""
    return {key: tensor for key, tensor in text.items() if key not in _UNREAD_TEXT}


def image_weights(embedder: Mapping[str, Tensor]) -> State:
    """Return the `ImageTower` weights from a file's `embedder.*`, under open_clip's or Hugging Face's names."""
    state = {key.removeprefix("model."): tensor for key, tensor in embedder.items()}
    vision = {key: tensor for key, tensor in state.items() if "vision_model." in key or "visual_projection." in key}
    if vision:
        state = hugging_face.image_weights(vision)
    return _read(state, EMBEDDER)


def noise_weights(state: State) -> State:
    """Return what is read of a file's `noise_augmentor.*` beside the statistics."""
    return _read(state, NOISE)


def _under(tensors: State, prefix: str) -> State:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _read(state: Mapping[str, Tensor], part: str) -> State:
    return {key: tensor for key, tensor in state.items() if READ[part].match(key)}
