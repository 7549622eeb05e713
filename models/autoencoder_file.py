"""Load an autoencoder (VAE) from a file of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from .autoencoder import AutoencoderKL
from .checkpoint import _check_keys, _fill
from .detection import AUTOENCODER, GROUP_SIZE, autoencoder_spec
from .diffusers_folder import original_keys
from .foreign_files import what_it_is
from .specs import SPECS, AutoencoderSpec
from .weights_file import read

READ = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")


def load_autoencoder(path: str | Path) -> tuple[AutoencoderKL, AutoencoderSpec]:
    """Load an autoencoder from a file of its own, or from a checkpoint, under the authors' or diffusers' names.

    ValueError where the file has none, or one with other than 4 latent channels.
    """
    file = read(path)
    state = {key.removeprefix(AUTOENCODER): tensor for key, tensor in file.tensors.items()}
    if "encoder.mid_block.resnets.0.norm1.weight" in state:
        state = {key.removeprefix(AUTOENCODER): tensor for key, tensor in original_keys("vae", state, {}).items()}
    state = {key: tensor for key, tensor in state.items() if key.startswith(READ)}
    try:
        spec = autoencoder_spec(state, SPECS["v1"].autoencoder)
    except KeyError as error:
        raise ValueError(f"{file.name} {what_it_is(file.tensors)}; choose the file of an autoencoder (VAE)") from error
    if spec.latent_channels != 4:
        raise ValueError(
            f"{file.name} is an autoencoder with {spec.latent_channels} latent channels; choose one with 4, such as "
            "vae-ft-mse-840000-ema-pruned"
        )
    group_size = file.metadata.get(GROUP_SIZE, "")
    base = SPECS["x4" if spec.factor == SPECS["x4"].autoencoder.factor else "v1"].autoencoder
    spec = replace(spec, scale=base.scale, group_size=int(group_size) if group_size.isdecimal() else None)
    with torch.device("meta"):
        autoencoder = AutoencoderKL(spec)
    _check_keys(autoencoder.state_dict(), state, file.name, AUTOENCODER)
    _fill(autoencoder, state, file.name, AUTOENCODER, None)
    return autoencoder, spec
