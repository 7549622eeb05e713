"""Load an autoencoder (VAE) from a file of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from .autoencoder import AutoencoderKL
from .checkpoint import fill
from .detection import GROUP_SIZE
from .foreign_files import not_the_part
from .parts import AUTOENCODER, autoencoder_weights
from .sizes import autoencoder_spec
from .specs import SPECS, AutoencoderSpec
from .weights_file import read


def load_autoencoder(path: str | Path) -> tuple[AutoencoderKL, AutoencoderSpec]:
    """Load an autoencoder from a file of its own, or from a checkpoint, under the authors' or diffusers' names.

    ValueError where the file has none, or one with other than 4 latent channels.
    """
    file = read(path)
    state = autoencoder_weights({key.removeprefix(AUTOENCODER): tensor for key, tensor in file.tensors.items()})
    try:
        spec = autoencoder_spec(state, SPECS["v1"].autoencoder)
    except KeyError as error:
        raise ValueError(f"{file.name} {not_the_part(file.tensors, 'an autoencoder (VAE)')}") from error
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
    fill(autoencoder, state, file.name, AUTOENCODER, None)
    return autoencoder, spec
