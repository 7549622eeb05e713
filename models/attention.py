"""Scaled dot-product attention and the cross-attention layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **_: object) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v on [B, N, heads * d], with the arguments of ComfyUI's attention functions."""
    dtype = q.dtype
    if dtype == torch.float16:
        # q k^T of the 2.x models exceeds 65504, and not every device accumulates it in float32
        q, k, v = q.float(), k.float(), v.float()
    batch = q.shape[0]  # a patch may tile q alone: k and v are then split to the same batch, as in ComfyUI
    q, k, v = (t.reshape(batch, -1, heads, t.shape[-1] // heads).transpose(1, 2) for t in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [B, heads, N, d]
    return out.transpose(1, 2).flatten(2).to(dtype)


class CrossAttention(nn.Module):
    """Multi-head attention from tokens of width `dim` to tokens of width `context_dim`."""

    def __init__(self, dim: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim))

    def forward(self, x: Tensor, context: Tensor, value: Tensor, attend: Attend = attention) -> Tensor:
        """x: [B, N, dim]; context (keys) and value: [B, M, context_dim] -> [B, N, dim]."""
        out: Tensor = self.to_out(attend(self.to_q(x), self.to_k(context), self.to_v(value), self.heads))
        return out
