"""The transformer between the UNet's residual blocks: self-attention, cross-attention, feed-forward."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu

from .attention import CrossAttention
from .hooks import Hooks


class GEGLU(nn.Module):
    """Linear layer gated by the GELU of a second one (https://arxiv.org/abs/2002.05202)."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_in, dim_out * 2)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * gelu(gate)


class FeedForward(nn.Module):
    """Two layers with a hidden width of 4 * dim."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(dim, 4 * dim),
            nn.Identity(),  # the authors' dropout; keeps the checkpoint's numbering
            nn.Linear(4 * dim, dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class BasicTransformerBlock(nn.Module):
    """Pre-norm transformer block. Without `self_attention`, both attention layers attend to the context."""

    def __init__(self, dim: int, context_dim: int, heads: int, self_attention: bool) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.attn1 = CrossAttention(dim, dim if self_attention else context_dim, heads)
        self.ff = FeedForward(dim)
        self.attn2 = CrossAttention(dim, context_dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, context: Tensor, hooks: Hooks) -> Tensor:
        """x: [B, N, dim], context: [B, T, context_dim] -> [B, N, dim]."""
        h = self.norm1(x)
        x = hooks.attention("attn1", self.attn1, h, h if self.self_attention else context) + x
        x = hooks.patch("middle_patch", x)
        x = hooks.attention("attn2", self.attn2, self.norm2(x), context) + x
        x = self.ff(self.norm3(x)) + x
        return x


class SpatialTransformer(nn.Module):
    """A transformer over the pixels of a feature map."""

    def __init__(
        self, channels: int, context_dim: int, heads: int, *, self_attention: bool, linear_projection: bool
    ) -> None:
        super().__init__()
        self.heads = heads
        self.linear_projection = linear_projection
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)
        block = BasicTransformerBlock(channels, context_dim, heads, self_attention)
        self.transformer_blocks = nn.ModuleList([block])
        self.proj_out = nn.Linear(channels, channels) if linear_projection else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor, hooks: Hooks) -> Tensor:
        """x: [B, C, h, w], context: [B, T, context_dim] -> [B, C, h, w]."""
        hooks.enter_transformer(x, self.heads)
        h: Tensor = self.norm(x)
        if not self.linear_projection:
            h = self.proj_in(h)
        h = h.flatten(2).transpose(1, 2)  # [B, C, h, w] -> [B, h * w, C]
        if self.linear_projection:
            h = self.proj_in(h)
        for index, block in enumerate(self.transformer_blocks):
            hooks.options["block_index"] = index
            h = block(h, context, hooks)
        if self.linear_projection:
            h = self.proj_out(h)
        h = h.transpose(1, 2).reshape(x.shape)  # [B, h * w, C] -> [B, C, h, w]
        if not self.linear_projection:
            h = self.proj_out(h)
        hooks.leave_transformer()
        return x + h
