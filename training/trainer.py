"""The loop that every phase shares: warm-up, cosine decay, averaged weights, and a state that resumes exactly."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .muon import Muon, suits

WARMUP = 50
AVERAGE = 0.998  # decay of the averaged weights
SAVE_EVERY = 500


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast one phase trains."""

    steps: int
    batch: int
    rate: float
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of `step`: a linear warm-up, then half a cosine down to zero."""
        return self.rate * min(1.0, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def averaged(state: Path) -> dict[str, Tensor]:
    """The averaged weights of a phase that has run."""
    if not state.exists():
        raise ValueError(f"{state.stem} has not been trained in {state.parent}; run the phase {state.stem} first.")
    weights: dict[str, Tensor] = torch.load(state, weights_only=True, map_location=device())["average"]
    return weights


def train(
    model: nn.Module,
    loss: Callable[[nn.Module, np.random.Generator, torch.Generator], Tensor],
    plan: Plan,
    state: Path,
    check: Callable[[nn.Module], str] | None = None,
) -> nn.Module:
    """Train `model` and return its averaged copy.

    `loss(model, choices, noise)` draws a batch with the two generators, which are seeded anew from (seed, step): a run
    resumed from `state` takes the same steps as one that was never stopped. `check(average)` describes progress.
    """
    model.to(device())
    average = copy.deepcopy(model).eval().requires_grad_(False)
    used = [p for p in model.parameters() if p.requires_grad]
    muon = Muon([p for p in used if suits(p)], plan.rate)
    adam = torch.optim.AdamW([p for p in used if not suits(p)], plan.rate, betas=(0.9, 0.99), fused=True)
    parts = {"model": model, "average": average, "muon": muon, "adam": adam}
    start = 0
    if state.exists():
        saved = torch.load(state, weights_only=True, map_location=device())
        start = saved["step"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    log = state.with_suffix(".log").open("a")
    began, losses = time.time(), list[float]()
    for step in tqdm(range(start, plan.steps), state.stem, initial=start, total=plan.steps, mininterval=10):
        for group in (*muon.param_groups, *adam.param_groups):
            group["lr"] = plan.rate_at(step)
        choices = np.random.default_rng((plan.seed, step))
        noise = torch.Generator(device()).manual_seed(int(choices.integers(2**62)))
        value = loss(model, choices, noise)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adam.step()
        model.zero_grad()
        decay = min(AVERAGE, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        losses.append(value.item())
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == plan.steps:
            torch.save({"step": step + 1, **{n: p.state_dict() for n, p in parts.items()}}, state.with_suffix(".new"))
            state.with_suffix(".new").replace(state)
            told = check(average) if check else ""
            log.write(f"{step + 1} loss {np.mean(losses):.5f} {time.time() - began:.0f}s {told}\n")
            log.flush()
            losses.clear()
    log.close()
    return average
