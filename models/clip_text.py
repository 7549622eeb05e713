"""CLIP's text towers, built from open_clip's blocks: OpenCLIP-H/14 for 2.x, OpenAI's CLIP-L/14 for 1.x.

Attribute paths are the checkpoint's keys after `cond_stage_model.`; 1.x files have Hugging Face names instead, which
`hugging_face.text_weights` renames. All sizes come from a `TextSpec`.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from open_clip.transformer import QuickGELU, TextTransformer
from torch import Tensor, nn

from .specs import TextSpec

CONTEXT_LENGTH = 77
VOCABULARY = 49408


class TextTower(nn.Module):
    """Encode tokens as one vector per token; the base of `OpenCLIPText` and `CLIPText`."""

    def __init__(self, spec: TextSpec, activation: type[nn.Module], *, projection: bool) -> None:
        super().__init__()
        self.spec = spec
        self.model = TextTransformer(
            context_length=CONTEXT_LENGTH,
            vocab_size=VOCABULARY,
            width=spec.width,
            heads=spec.heads,
            layers=spec.layers,
            output_dim=spec.width if projection else None,
            act_layer=activation,
            no_causal_mask=True,  # its mask is a non-persistent buffer, lost on meta: forward builds the mask instead
        )

    @property
    def dtype(self) -> torch.dtype:
        return cast(torch.dtype, self.model.positional_embedding.dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: int64 [B, 77] -> [B, 77, width], after the final norm."""
        model = self.model
        x = model.token_embedding(tokens) + model.positional_embedding
        causal = torch.full((x.shape[1], x.shape[1]), -math.inf, dtype=x.dtype, device=x.device).triu_(1)
        blocks = model.transformer.resblocks
        for block in blocks[:-1] if self.spec.penultimate else blocks:
            x = block(x, attn_mask=causal)
        return cast(Tensor, model.ln_final(x))


class OpenCLIPText(TextTower):
    """OpenCLIP ViT-H/14's text tower (Cherti et al. 2022, arXiv:2212.07143); 2.x uses its second-to-last layer."""

    def __init__(self, spec: TextSpec) -> None:
        super().__init__(spec, nn.GELU, projection=True)
        # text_projection and logit_scale are not used for conditioning, but the files contain them
        self.model.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


class CLIPText(TextTower):
    """OpenAI CLIP ViT-L/14's text tower (Radford et al. 2021, arXiv:2103.00020); 1.x uses its last layer."""

    def __init__(self, spec: TextSpec) -> None:
        super().__init__(spec, QuickGELU, projection=False)
