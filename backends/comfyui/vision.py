"""The CLIP_VISION and the depth model of a checkpoint, moved and evicted by ComfyUI.

The image encoder is ComfyUI's except for `encode_image`, which resizes and crops as the authors' code does. The depth
model is ours; its layers are not ComfyUI's classes, so it is moved as a whole.
"""

from __future__ import annotations

import json
import tempfile
from functools import cached_property
from pathlib import Path

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor

from ...models.clip_image import ImageTower, hugging_face_config, preprocess
from ...pipeline import components
from .model import Comfy, Patcher


class DepthModel(components.DepthModel):
    """A depth estimator that ComfyUI moves to the device and evicts when memory is short."""

    @cached_property
    def patcher(self) -> Patcher:
        management = comfy.model_management
        return comfy.model_patcher.ModelPatcher(
            self.network.float(),
            load_device=management.get_torch_device(),
            offload_device=management.unet_offload_device(),
        )

    def place(self) -> torch.device:
        """Move the whole network to the device."""
        comfy.model_management.load_models_gpu([self.patcher], force_full_load=True)
        device: torch.device = self.patcher.load_device
        return device


class ImageEncoder(comfy.clip_vision.ClipVisionModel):
    """ComfyUI's image encoder, which prepares images as the authors' code does."""

    def encode_image(self, image: Tensor, crop: bool = True) -> Comfy:
        comfy.model_management.load_model_gpu(self.patcher)
        pixels = preprocess(image.to(self.load_device), self.image_size, crop=crop)
        last, penultimate, embeddings, _ = self.model(pixel_values=pixels, intermediate_output=-2)
        device = comfy.model_management.intermediate_device()
        output = comfy.clip_vision.Output()
        output.image_embeds = embeddings.float().to(device)
        output.last_hidden_state, output.penultimate_hidden_states = last.to(device), penultimate.to(device)
        output.mm_projected = None
        return output


def build_image_encoder(tower: ImageTower, dtype: torch.dtype | None) -> Comfy:
    """Build ComfyUI's image encoder with our weights, at any width."""
    with tempfile.TemporaryDirectory() as folder:  # older versions only accept a file
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(hugging_face_config(tower.spec)), encoding="utf-8")
        encoder = ImageEncoder(str(path))
    on_cpu = encoder.load_device.type == "cpu"
    encoder.dtype = dtype or (tower.dtype if on_cpu else encoder.dtype)  # ComfyUI would round to float16 even there
    encoder.model.to(encoder.dtype)
    state = comfy.clip_vision.convert_to_transformers(dict(tower.state_dict()), "visual.")
    encoder.load_sd({key: tensor.to(encoder.dtype) for key, tensor in state.items()})
    return encoder
