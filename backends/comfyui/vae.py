"""The VAE of a checkpoint: ComfyUI's object around our autoencoder.

ComfyUI's VAE always builds its own autoencoder; we let it build a minimal one and replace it with ours.
"""

from __future__ import annotations

import comfy.ldm.models.autoencoder
import comfy.model_management
import comfy.sd
import torch

from ...models.autoencoder import AutoencoderKL
from .model import Comfy, archive_dtypes


def build_vae(autoencoder: AutoencoderKL, factor: int, dtype: torch.dtype | None) -> Comfy:
    """Build ComfyUI's VAE around our autoencoder, at any width."""
    sizes: dict[str, object] = {"double_z": True, "z_channels": 4, "resolution": 8, "in_channels": 3, "out_ch": 3}
    sizes |= {"ch": 32, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    smallest = {"ddconfig": sizes, "embed_dim": 4}
    state = comfy.ldm.models.autoencoder.AutoencoderKL(**smallest).state_dict()
    vae = comfy.sd.VAE(sd=state, config={"params": smallest}, dtype=dtype)
    vae.first_stage_model = autoencoder.to(vae.vae_dtype)
    archive_dtypes(autoencoder)
    vae.patcher = type(vae.patcher)(
        autoencoder, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    vae.size = None  # recomputed on demand
    vae.downscale_ratio = vae.upscale_ratio = factor
    vae.memory_used_decode = lambda shape, dtype: (
        2178 * shape[2] * shape[3] * factor**2 * comfy.model_management.dtype_size(dtype)
    )
    return vae
