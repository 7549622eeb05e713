"""Stand-ins for everyday stock nodes, with ComfyUI's ids, inputs, widget order and behavior; one file a theme."""

from __future__ import annotations

from . import (
    conditioning_nodes,
    controlnet_nodes,
    file_nodes,
    image_nodes,
    latent_edit_nodes,
    latent_nodes,
    loader_nodes,
    lora_nodes,
    mask_nodes,
    merge_nodes,
    picture_conditioning_nodes,
    sampler_nodes,
    text_nodes,
    upscale_model_nodes,
    vae_nodes,
)

THEMES = (
    loader_nodes,
    lora_nodes,
    merge_nodes,
    text_nodes,
    conditioning_nodes,
    controlnet_nodes,
    picture_conditioning_nodes,
    latent_nodes,
    latent_edit_nodes,
    vae_nodes,
    sampler_nodes,
    image_nodes,
    upscale_model_nodes,
    mask_nodes,
    file_nodes,
)

NODE_CLASS_MAPPINGS: dict[str, type] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
for theme in THEMES:
    NODE_CLASS_MAPPINGS |= theme.NODE_CLASS_MAPPINGS
    NODE_DISPLAY_NAME_MAPPINGS |= theme.NODE_DISPLAY_NAME_MAPPINGS
