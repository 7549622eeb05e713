"""What one layer of a LoRA file does to a weight W, computed in float32.

Each form stores a difference dW in factors, and W becomes W + strength * alpha / rank * dW:
- LoRA and LoCon: dW = up down, in a convolution with an optional core between them (Hu et al. 2021,
  arXiv:2106.09685);
- LoHa: dW = (w1_a w1_b) * (w2_a w2_b), element by element; LoKr: dW = w1 (x) w2, the Kronecker product
  (Yeh et al. 2023, LyCORIS, arXiv:2309.14859);
- a plain difference: dW itself.
A `dora_scale` gives the rows or the columns of W + dW that length (Liu et al. 2024, DoRA, arXiv:2402.09353).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Factors = Mapping[str, Tensor]  # the tensors of a layer by their role: up, down, alpha, hada_w1_a, diff, ...
WEIGHT_ROLES = frozenset({"up", "hada_w1_a", "lokr_w1", "lokr_w1_a", "lokr_w2", "lokr_w2_a", "diff", "w_norm"})
BIAS_ROLES = frozenset({"diff_b", "b_norm"})


def changed(weight: Tensor, factors: Factors, strength: float) -> Tensor:
    """Return a float32 weight with the layer's change, at a strength of any sign."""
    change = difference(factors).reshape(weight.shape)
    if "dora_scale" in factors:
        return weight + strength * (_rescaled(weight, change, factors["dora_scale"].float()) - weight)
    return weight + strength * change


def changed_bias(bias: Tensor, factors: Factors, strength: float) -> Tensor:
    """Return a float32 bias with the layer's change."""
    return bias + strength * bias_difference(factors).reshape(bias.shape)


def difference(factors: Factors) -> Tensor:
    """Return alpha / rank * dW; a convolution's may be flattened to [out, in * k * k].

    Raises KeyError where a factor is missing, RuntimeError where two do not fit.
    """
    f = {role: tensor.float() for role, tensor in factors.items()}
    plain = f.get("diff", f.get("w_norm"))
    if plain is not None:
        return plain
    if "up" in f:
        rank, change = len(f["down"]), _low_rank(f["up"], f["down"], f.get("mid"))
    elif "hada_w1_a" in f:
        rank = len(f["hada_w1_b"])
        change = _product(f, "hada_w1", f.get("hada_t1")) * _product(f, "hada_w2", f.get("hada_t2"))
    else:
        first = f["lokr_w1"] if "lokr_w1" in f else _product(f, "lokr_w1")
        second = f["lokr_w2"] if "lokr_w2" in f else _product(f, "lokr_w2", f.get("lokr_t2"))
        if second.ndim == 4:
            first = first[:, :, None, None]
        change = torch.kron(first, second)
        # alpha belongs to a factor in two parts; without one there is no rank
        halves = [f[name] for name, whole in (("lokr_w2_b", "lokr_w2"), ("lokr_w1_b", "lokr_w1")) if whole not in f]
        rank = len(halves[0]) if halves else 0
    return change * (f["alpha"].flatten()[0] / rank) if "alpha" in f and rank else change


def bias_difference(factors: Factors) -> Tensor:
    """Return the change of the bias, float32."""
    return factors["diff_b" if "diff_b" in factors else "b_norm"].float()


def _low_rank(up: Tensor, down: Tensor, mid: Tensor | None) -> Tensor:
    """up: [out, r, 1, 1], down: [s, in, k, k], mid: [r, s, k, k] with k = 1 around it, or None."""
    if mid is not None:
        return torch.einsum("or,rs...,si->oi...", up.flatten(1), mid, down.flatten(1))
    return up.flatten(1) @ down.flatten(1)


def _product(f: Factors, name: str, core: Tensor | None = None) -> Tensor:
    """a: [out, r], b: [r, in] -> [out, in]; with a core [r, s, k, k], a: [r, out], b: [s, in] -> [out, in, k, k]."""
    a, b = f[f"{name}_a"], f[f"{name}_b"]
    return a @ b if core is None else torch.einsum("rs...,ro,si->oi...", core, a, b)


def _rescaled(weight: Tensor, change: Tensor, scale: Tensor) -> Tensor:
    """Return (W + dW) * scale / length, where the length is that of W's rows or of (W + dW)'s columns.

    scale: [out, 1, ...] or [1, in, ...]. The rows' length before the change is ComfyUI's choice.
    """
    target = weight + change
    by_row = len(scale) == len(weight)
    across = [axis for axis in range(weight.ndim) if axis != (0 if by_row else 1)]
    length: Tensor = torch.linalg.vector_norm(weight if by_row else target, dim=across, keepdim=True)
    return target * (scale / (length + torch.finfo(weight.dtype).eps))
