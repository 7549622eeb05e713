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

    @property
    def _openclip(self) -> bool:
        return self.spec.tower == "openclip-h"

    @property
    def full_depth(self) -> int:
        """The number of layers of a complete tower: a 2.x file may lack the last one, which is not read."""
        return self.spec.layers + (self._openclip and not self.spec.penultimate)

    def forward(self, tokens: Tensor, stop: int | None = None) -> Tensor:
        """tokens: int64 [B, 77] -> [B, 77, width], after the final norm.

        stop: the layer that is read, from -1, the last, backwards; the last as well where there are not as many. None
        is the one that the model was trained with.
        """
        return self.transform(self.embed(tokens), stop)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the vectors of tokens, without their positions."""
        return cast(Tensor, self.model.token_embedding(tokens))

    def transform(self, vectors: Tensor, stop: int | None = None) -> Tensor:
        """`forward` for tokens that are vectors [B, 77, width] already."""
        model = self.model
        x = vectors + model.positional_embedding
        causal = torch.full((x.shape[1], x.shape[1]), -math.inf, dtype=x.dtype, device=x.device).triu_(1)
        for block in model.transformer.resblocks[: self._depth(stop)]:
            x = block(x, attn_mask=causal)
        return cast(Tensor, model.ln_final(x))

    def _depth(self, stop: int | None) -> int:
        """Return how many layers run."""
        if stop is None:
            stop = -2 if self._openclip else -1
        return self.full_depth + 1 + (stop if -stop <= self.full_depth else -1)


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
