"""The loop that every phase shares: warm-up, cosine decay, averaged weights, and a state that resumes exactly."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..pipeline.components import compute_device
from .muon import Muon, suits_muon
from .progress_bar import progress_bar

WARMUP = 50
EMA_DECAY = 0.998
SAVE_EVERY = 500

M = TypeVar("M", bound=nn.Module)
Loss = Callable[[M, np.random.Generator, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Steps, batch size and learning rate of one phase."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int = 0

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of `step`: a linear warm-up times half a cosine down to zero."""
        warmup = min(1.0, (step + 1) / WARMUP)
        return self.learning_rate * warmup * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))


class TrainingState(Generic[M]):
    """A model, its averaged copy, its optimizers and the number of steps taken."""

    def __init__(self, model: M, plan: Plan) -> None:
        self.step = 0
        self.model = model.to(compute_device())
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        trained = [p for p in model.parameters() if p.requires_grad]
        self.muon = Muon([p for p in trained if suits_muon(p)], plan.learning_rate)
        others = [p for p in trained if not suits_muon(p)]
        self.adam = torch.optim.AdamW(others, plan.learning_rate, betas=(0.9, 0.99), fused=True)

    def load(self, path: Path) -> None:
        saved = torch.load(path, weights_only=True, map_location=compute_device())
        self.step = saved["step"]
        self.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        self.muon.load_state_dict(saved["muon"])
        self.adam.load_state_dict(saved["adam"])

    def save(self, path: Path) -> None:
        """Write everything to `path`, which is replaced only when the new file is complete."""
        unfinished = path.with_suffix(".new")
        saved = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
        }
        torch.save(saved, unfinished)
        unfinished.replace(path)

    def update(self, loss: Tensor, learning_rate: float) -> None:
        """Take one optimizer step down the gradient of `loss`, and move the averaged weights toward the model's."""
        for group in (*self.muon.param_groups, *self.adam.param_groups):
            group["lr"] = learning_rate
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.muon.step()
        self.adam.step()
        self.model.zero_grad()
        # short at first, so that the random initial weights are forgotten
        decay = min(EMA_DECAY, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        self.step += 1


def averaged(path: Path) -> dict[str, Tensor]:
    """Read the averaged weights of a trained phase."""
    if not path.exists():
        raise ValueError(f"{path.parent} holds no trained {path.stem}; run the phase {path.stem} first")
    weights: dict[str, Tensor] = torch.load(path, weights_only=True, map_location=compute_device())["average"]
    return weights


def train(model: M, loss: Loss[M], plan: Plan, path: Path, check: Callable[[M], str] | None = None) -> M:
    """Train `model` and return its averaged copy; the state is kept in `path`.

    `loss(model, choices, noise)` draws a batch with the two generators, which are seeded anew from (seed, step): a run
    resumed from `path` takes the same steps as one that was never stopped. `check(average)` describes progress.
    """
    state = TrainingState(model, plan)
    if path.exists():
        state.load(path)
    began, losses = time.time(), list[float]()
    with path.with_suffix(".log").open("a") as log:
        for step in progress_bar(range(state.step, plan.steps), path.stem, total=plan.steps, done=state.step):
            choices = np.random.default_rng((plan.seed, step))
            noise = torch.Generator(compute_device()).manual_seed(int(choices.integers(2**62)))
            value = loss(state.model, choices, noise)
            state.update(value, plan.learning_rate_at(step))
            losses.append(value.item())
            if state.step % SAVE_EVERY == 0 or state.step == plan.steps:
                state.save(path)
                progress = check(state.average) if check else ""
                log.write(f"{state.step} loss {np.mean(losses):.5f} {time.time() - began:.0f}s {progress}\n")
                log.flush()
                losses.clear()
    return state.average
