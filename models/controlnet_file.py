"""Load a ControlNet from a file of its own, under the authors' names or diffusers'."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import fill
from .controlnet import STRIDES, ControlNet, ControlNetSpec
from .diffusers_folder import original_keys
from .foreign_files import not_the_part
from .parts import UNET
from .sizes import encoder_spec
from .specs import SPECS
from .weights_file import WeightsFile, read

State = dict[str, Tensor]
PREFIX = "control_model."
DIFFERENCE = "difference"  # the key of a file that has the differences to a UNet in place of weights
ADVICE = "choose a ControlNet for Stable Diffusion 1.x or 2.x"

_READ = re.compile(r"(time_embed|input_blocks|input_hint_block|zero_convs|middle_block|middle_block_out)\.")
# patterns of keys and the end of the sentence "<file> is ..."; the first match decides
_OTHERS = (
    (r"^lora_controlnet$", "a Control-LoRA, which runs only in ComfyUI; run the workflow with --comfyui"),
    (
        r"^(adapter\.)?body\.\d+\.(in_conv|block[12]|resnets|downsample)",
        "a T2I-Adapter, which runs only in ComfyUI; run the workflow with --comfyui",
    ),
    (
        r"(^|\.)(label_emb|add_embedding|control_add_embedding)\.|\.transformer_blocks\.1\.",
        f"a ControlNet for SDXL; {ADVICE}",
    ),
    (
        r"(^|\.)controlnet_(blocks|x_embedder)\.|^controlnet_single_blocks\.|after_proj_list\.|pos_embed_input\.",
        f"a ControlNet for another family of models; {ADVICE}",
    ),
)


def load_controlnet(path: str | Path, unet: Callable[[], State] | None = None) -> ControlNet:
    """Load a ControlNet of 1.x or 2.x; its sizes are those of its tensors.

    unet: returns the weights that a file of differences is added to. ValueError where the file has no ControlNet, one
    of another family, or differences without or to another UNet.
    """
    file = read(path)
    state = _weights(file)
    if DIFFERENCE in file.tensors:
        if unet is None:
            raise ValueError(
                f"{file.name} has the differences to a model in place of weights; load it with DiffControlNetLoader"
            )
        state = _added(file.name, state, unet())
    try:
        spec = _spec(state)
    except (KeyError, IndexError) as error:
        raise ValueError(
            f"{file.name} has a ControlNet without {error.args[0]}; download it again or choose another file"
        ) from error
    if spec.hint_channels != 3 or spec.encoder.in_channels != 4:
        raise ValueError(
            f"{file.name} is a ControlNet for images of {spec.hint_channels} channels and latents of "
            f"{spec.encoder.in_channels}, not 3 and 4; {ADVICE}"
        )
    with torch.device("meta"):
        network = ControlNet(spec)
    fill(network, state, file.name, PREFIX, None)
    return network


def is_pooled(path: Path) -> bool:
    """Whether a ControlNet gives one residual for the whole image; as in ComfyUI, the file's name alone says so."""
    return path.stem.endswith(("_shuffle", "_shuffle_fp16"))


def _weights(file: WeightsFile) -> State:
    """Return the weights under the authors' names, without what is not read."""
    tensors = file.tensors
    if found := _matching(tensors):
        raise ValueError(f"{file.name} is {found}")
    if any(key.startswith("controlnet_cond_embedding.") for key in tensors):
        return _original(tensors)
    prefix = PREFIX if f"{PREFIX}zero_convs.0.0.weight" in tensors else ""
    state = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    if "zero_convs.0.0.weight" not in state:
        raise ValueError(f"{file.name} {not_the_part(tensors, 'a ControlNet')}")
    return {key: tensor for key, tensor in state.items() if _READ.match(key)}


def _matching(keys: Iterable[str]) -> str:
    return next((sentence for pattern, sentence in _OTHERS if any(re.search(pattern, key) for key in keys)), "")


def _original(tensors: State) -> State:
    """Convert diffusers' names: convolutions at even numbers, with an activation after each."""

    def rename(key: str) -> str:
        match key.split("."):
            case ["controlnet_cond_embedding", "conv_in", name]:
                return f"input_hint_block.0.{name}"
            case ["controlnet_cond_embedding", "blocks", n, name]:
                return f"input_hint_block.{2 * int(n) + 2}.{name}"
            case ["controlnet_cond_embedding", "conv_out", name]:
                return f"input_hint_block.{2 * len(STRIDES) - 2}.{name}"
            case ["controlnet_down_blocks", n, name]:
                return f"zero_convs.{n}.0.{name}"
        return key.replace("controlnet_mid_block.", "middle_block_out.0.")

    own = {key: tensor for key, tensor in tensors.items() if key.startswith("controlnet_")}
    rest = original_keys("unet", {key: tensor for key, tensor in tensors.items() if key not in own}, {})
    return {rename(key): tensor for key, tensor in own.items()} | {
        key.removeprefix(UNET): tensor for key, tensor in rest.items()
    }


def _added(name: str, state: State, unet: State) -> State:
    """Add the UNet's weights to the differences."""
    for key, tensor in state.items():
        if key in unet and unet[key].shape != tensor.shape:
            raise ValueError(
                f"{name} has the differences to another model: its {key} is {list(tensor.shape)}, in the model "
                f"{list(unet[key].shape)}; connect the model that it was made for"
            )
    return {key: tensor + unet[key].to(tensor) if key in unet else tensor for key, tensor in state.items()}


def _spec(state: State) -> ControlNetSpec:
    """Read the sizes from the weights; linear projections are those of 2.x, with its heads."""
    linear = state["middle_block.1.proj_in.weight"].ndim == 2
    hints = [state[f"input_hint_block.{2 * i}.weight"] for i in range(len(STRIDES))]
    return ControlNetSpec(
        encoder=encoder_spec(state, SPECS["v2-base" if linear else "v1"].unet),
        hint_channels=hints[0].shape[1],
        hint_widths=tuple(weight.shape[0] for weight in hints[:-1]),
    )
