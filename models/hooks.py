"""The extension points of the UNet for ComfyUI's patch nodes and ControlNets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .attention import Attend, CrossAttention, attention

Control = Mapping[str, Sequence[Tensor | None]]

log = logging.getLogger(__name__)


class Hooks:
    """ComfyUI's `control` and `transformer_options` during one forward pass.

    Patches receive `options`, a copy of `transformer_options` with the current position in the network.
    """

    def __init__(self, x: Tensor, control: Control | None, options: Mapping[str, Any] | None) -> None:
        self.options: dict[str, Any] = dict(options or {})
        self.options["original_shape"] = list(x.shape)
        self.options["transformer_index"] = 0
        self.options["attn_precision"] = torch.float32 if x.dtype == torch.float16 else None
        self.patches: Mapping[str, Sequence[Any]] = self.options.get("patches", {})
        self.replacements: Mapping[str, Mapping[Any, Any]] = self.options.get("patches_replace", {})
        self.residuals = {name: list(residuals) for name, residuals in (control or {}).items()}

    def enter_block(self, name: str, index: int) -> None:
        """Set the position: block `index` of the "input", "middle" or "output" blocks."""
        self.options["block"] = (name, index)

    def enter_transformer(self, x: Tensor, heads: int) -> None:
        """Set the position: in a transformer on x [B, C, h, w]."""
        self.options.update(activations_shape=list(x.shape), n_heads=heads, dim_head=x.shape[1] // heads)

    def leave_transformer(self) -> None:
        self.options["transformer_index"] += 1

    def patch(self, name: str, h: Tensor) -> Tensor:
        """Apply the patches that map one tensor to another."""
        for patch in self.patches.get(name, ()):
            h = patch(h, self.options)
        return h

    def patch_embedding(self, emb: Tensor, model_channels: int) -> Tensor:
        """Apply the patches of the timestep embedding [B, 4 * model_channels]."""
        for patch in self.patches.get("emb_patch", ()):
            emb = patch(emb, model_channels, self.options)
        return emb

    def patch_skip(self, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the patches of an output block's two inputs."""
        for patch in self.patches.get("output_block_patch", ()):
            h, skip = patch(h, skip, self.options)
        return h, skip

    def add_control(self, name: str, h: Tensor) -> Tensor:
        """Add the next ControlNet residual for the "input", "middle" or "output" blocks, if there is one."""
        residuals = self.residuals.get(name)
        residual = residuals.pop() if residuals else None
        if residual is None:
            return h
        if residual.shape[1:] != h.shape[1:]:  # a patch has resized h: skip the residual, as ComfyUI does
            log.warning("skipped a ControlNet residual: %s does not fit %s", list(residual.shape), list(h.shape))
            return h
        return h + residual.to(h)

    def attention(self, name: str, layer: CrossAttention, x: Tensor, context: Tensor) -> Tensor:
        """Apply `layer` as "attn1" or "attn2", with the patches before, inside and after it."""
        value = context
        for patch in self.patches.get(f"{name}_patch", ()):
            x, context, value = patch(x, context, value, self.options)
        return self.patch(f"{name}_output_patch", layer(x, context, value, self._attend(name)))

    def _attend(self, name: str) -> Attend:
        """Return the attention function: a replacement for this transformer or UNet block, an override, or ours."""
        replacements = self.replacements.get(name, {})
        block = self.options["block"]
        replacement = replacements.get((*block, self.options["block_index"]), replacements.get(block))
        if replacement is not None:
            return lambda q, k, v, heads: replacement(q, k, v, self.options)
        override = self.options.get("optimized_attention_override")
        if override is None:
            return attention
        return lambda q, k, v, heads: override(
            attention,
            q,
            k,
            v,
            heads,
            attn_precision=self.options["attn_precision"],
            transformer_options=self.options,
            _inside_attn_wrapper=True,  # else ComfyUI's own attention functions would call the override again
        )
