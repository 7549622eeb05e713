"""Classifier-free guidance and its rescaling."""

from __future__ import annotations

from torch import Tensor

from .parameterization import Prediction, from_x0, to_x0

Scale = float | Tensor
"""Of guidance, for the whole image or [B,1,h,w]; 1 is none."""


def is_guided(scale: Scale) -> bool:
    """Whether the unconditional side counts."""
    return isinstance(scale, Tensor) or scale != 1


def cfg(cond: Tensor, uncond: Tensor, scale: Scale) -> Tensor:
    """Apply classifier-free guidance, arXiv:2207.12598; the same in x0, eps and v, which are linearly related."""
    return uncond + scale * (cond - uncond) if is_guided(scale) else cond


def rescale(guided: Tensor, cond: Tensor, phi: float) -> Tensor:
    """Rescale guided network outputs [B,C,h,w] toward the deviation of `cond`, arXiv:2305.08891 section 3.4.

    phi 0 returns `guided` unchanged, 1 gives it the standard deviation of `cond`; the paper uses 0.7.
    """
    axes = tuple(range(1, cond.ndim))
    spread = guided.std(axes, keepdim=True)
    # sigma_pos / sigma_cfg; a constant output has nothing to rescale
    ratio = (cond.std(axes, keepdim=True) / spread).where(spread > 0, 1.0)
    return guided * (phi * ratio + 1 - phi)


def guide(
    cond: Tensor, uncond: Tensor, *, x: Tensor, sigma: float, scale: Scale, phi: float, prediction: Prediction
) -> Tensor:
    """Combine the conditional and unconditional x0 at x into a guided x0 [B,C,h,w]; phi is the strength of `rescale`.

    As in the paper, the rescaling acts on what the network predicts (v or eps); on x0 it would have another effect.
    """
    guided = cfg(cond, uncond, scale)
    if phi == 0:
        return guided
    output = rescale(from_x0(guided, x, sigma, prediction), from_x0(cond, x, sigma, prediction), phi)
    return to_x0(output, x, sigma, prediction)
