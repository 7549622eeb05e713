"""Muon, a momentum optimizer with orthogonalized steps (https://kellerjordan.github.io/posts/muon)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a quintic that drives singular values to about 1 in five steps


def orthogonalize(matrix: Tensor) -> Tensor:
    """Approximate U V^T of `matrix` = U S V^T in float32, without a decomposition."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    # x <- p x with p = a + b g + c g^2, g = x x^T; p and g commute, so the small squares are iterated instead of x
    gram = x @ x.T
    product = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(5):
        p = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        p.diagonal().add_(a)
        product = p @ product
        gram = p @ gram @ p
    result: Tensor = product @ x
    return result if wide is matrix else result.T


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalized; convolutions count as matrices [out, in * height * width].

    `torch.optim.Muon` takes no convolutions. Steps are scaled to the size of Adam's (arXiv:2502.16982, equation 4), so
    that both share one learning rate.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:  # not part of this objective
                    continue
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - MOMENTUM)
                update = orthogonalize(p.grad.lerp(momentum, MOMENTUM).flatten(1))
                p.add_(update.view_as(p), alpha=-group["lr"] * 0.2 * max(update.shape) ** 0.5)


def suits_muon(p: nn.Parameter) -> bool:
    """Return whether `p` is a hidden matrix, not an embedding, a first or last layer, a bias or a scale."""
    return p.ndim >= 2 and min(p.shape[0], p.shape[1]) >= 16 and max(p.shape) < 10_000
