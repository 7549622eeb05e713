"""Narrow ControlNets with random weights, and their files in every layout."""

from dataclasses import replace

import torch
from safetensors.torch import save_file
from sd2_family.models.controlnet import ControlNet, ControlNetSpec
from tiny import randomise, tiny_spec, tiny_state

UNET = "model.diffusion_model."


def random_controlnet(kind="v2-base", *, seed=4, spec=None):
    """One for the tiny model of a kind, or for a UNet's sizes."""
    spec = spec or replace(tiny_spec(kind).unet, in_channels=4, vector_dim=None, num_classes=None)
    return randomise(ControlNet(ControlNetSpec(encoder=spec)), seed)


def diffusers_names(state, level=2):
    """A ControlNet's weights under diffusers' names; level: the blocks of one level of the UNet."""
    residual = {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
    }
    last = max(int(key.split(".")[1]) for key in state if key.startswith("input_hint_block."))

    def rename(key):
        match key.split("."):
            case ["time_embed", n, name]:
                return f"time_embedding.linear_{1 + int(n) // 2}.{name}"
            case ["input_blocks", "0", "0", name]:
                return f"conv_in.{name}"
            case ["input_blocks", n, "0", "op", name]:
                return f"down_blocks.{int(n) // level - 1}.downsamplers.0.conv.{name}"
            case ["input_blocks", n, part, *rest]:
                block, number = divmod(int(n) - 1, level)
                inside = ".".join(rest)
                if part == "0":
                    inside = f"{residual['.'.join(rest[:-1])]}.{rest[-1]}"
                return f"down_blocks.{block}.{'attentions' if part == '1' else 'resnets'}.{number}.{inside}"
            case ["middle_block", "1", *rest]:
                return f"mid_block.attentions.0.{'.'.join(rest)}"
            case ["middle_block", n, *rest, name]:
                return f"mid_block.resnets.{int(n) // 2}.{residual['.'.join(rest)]}.{name}"
            case ["input_hint_block", n, name]:
                inside = f"blocks.{int(n) // 2 - 1}"
                where = {0: "conv_in", last: "conv_out"}.get(int(n), inside)
                return f"controlnet_cond_embedding.{where}.{name}"
            case ["zero_convs", n, "0", name]:
                return f"controlnet_down_blocks.{n}.{name}"
            case ["middle_block_out", "0", name]:
                return f"controlnet_mid_block.{name}"

    return {rename(key): tensor for key, tensor in state.items()}


def differences(state, kind, seed=0):
    """What a file of differences to the tiny model of a kind has in place of the weights."""
    unet = tiny_state(kind, seed=seed)
    return {key: tensor - unet[UNET + key] if UNET + key in unet else tensor for key, tensor in state.items()}


def _prefixed(state):
    return {f"control_model.{key}": tensor for key, tensor in state.items()}


# by name: what turns a ControlNet's weights into the tensors of a file
LAYOUTS = {
    "authors": lambda state, kind: _prefixed(state),
    "bare": lambda state, kind: dict(state),
    "diffusers": lambda state, kind: diffusers_names(state),
    "differences": lambda state, kind: _prefixed(differences(state, kind)) | {"difference": torch.zeros(())},
}


def write_controlnet(path, kind="v2-base", *, layout="authors", seed=4):
    """Write a ControlNet for the tiny model of a kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = LAYOUTS[layout](random_controlnet(kind, seed=seed).state_dict(), kind)
    save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, path)
    return path


def adapter(channels):
    """A T2I-Adapter (arXiv:2302.08453) with random weights for a UNet with this many channels in its first level."""
    generator = torch.Generator().manual_seed(2)
    widths = [channels * factor for factor in (1, 2, 4, 4)]
    shapes = {"conv_in.weight": (widths[0], 64 * 3, 3, 3), "conv_in.bias": widths[:1]}
    for level, width in enumerate(widths):
        before = widths[max(level - 1, 0)]
        if before != width:
            shapes |= {
                f"body.{2 * level}.in_conv.weight": (width, before, 1, 1),
                f"body.{2 * level}.in_conv.bias": [width],
            }
        for number in (2 * level, 2 * level + 1):
            for name, size in (("block1", 3), ("block2", 1)):
                shapes[f"body.{number}.{name}.weight"] = (width, width, size, size)
                shapes[f"body.{number}.{name}.bias"] = [width]
    return {name: torch.randn(*shape, generator=generator) * 0.1 for name, shape in shapes.items()}
