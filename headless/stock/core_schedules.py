"""ComfyUI's schedulers, in its own float32 arithmetic.

The equations are those of `samplers.schedule`. But the noise of the SDE samplers follows the noise levels to six
digits, so that a difference in the last place of float32 gives another picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ...samplers import NoiseSchedule
from ...samplers.schedule import ddim_uniform, simple

Scheduler = Callable[[NoiseSchedule, int], Tensor]


def normal(schedule: NoiseSchedule, steps: int, *, without_last: bool = False) -> Tensor:
    """Evenly spaced timesteps, with the last or without it, then 0."""
    logs = schedule.log_sigmas.float()
    times = torch.linspace(schedule.steps - 1, 0, steps + without_last)[:steps]
    below, above, share = logs[times.floor().long()], logs[times.ceil().long()], times.frac()
    # one at a time: exp of several numbers rounds differently
    return _ended([float(level.exp()) for level in (1 - share) * below + share * above])


def karras(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Evenly spaced sigma^(1/7), then 0; arXiv:2206.00364 eq. 5."""
    low, high = _limits(schedule)
    low, high = low ** (1 / 7), high ** (1 / 7)
    return _ended((high + torch.linspace(0, 1, steps) * (low - high)) ** 7)


def exponential(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Evenly spaced log sigma, then 0."""
    low, high = _limits(schedule)
    return _ended(torch.linspace(math.log(high), math.log(low), steps).exp())


def kl_optimal(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Evenly spaced arctan(sigma), then 0; Sabour et al., arXiv:2404.14507, for a normal distribution."""
    low, high = _limits(schedule)
    share = torch.arange(steps, dtype=torch.float32) / max(steps - 1, 1)
    return _ended((share * math.atan(low) + (1 - share) * math.atan(high)).tan())


def linear_quadratic(schedule: NoiseSchedule, steps: int) -> Tensor:
    """1 - sigma / sigma_max rises linearly to 0.025 in half of the steps, then quadratically to 1 (Mochi 1)."""
    rise, half = 0.025, max(steps // 2, 1)
    rest = steps - half
    slope = rise / half
    # the parabola that leaves (half, rise) with this slope and reaches 1 at the last step
    curve = (1 - rise - slope * rest) / rest**2 if rest else 0.0
    done = [i * slope if i < half else rise + slope * (i - half) + curve * (i - half) ** 2 for i in range(steps)]
    return _ended([1 - share for share in done]) * _limits(schedule)[1]


def _limits(schedule: NoiseSchedule) -> tuple[float, float]:
    """The lowest and the highest noise level, each a float32."""
    levels = schedule.sigmas.float()
    return float(levels[0]), float(levels[-1])


def _ended(levels: Tensor | list[float]) -> Tensor:
    return torch.cat([torch.as_tensor(levels, dtype=torch.float32), torch.zeros(1)])


SCHEDULERS: dict[str, Scheduler] = {
    "simple": lambda schedule, steps: simple(schedule, steps).float(),
    "sgm_uniform": partial(normal, without_last=True),
    "karras": karras,
    "exponential": exponential,
    "ddim_uniform": lambda schedule, steps: ddim_uniform(schedule, steps).float(),
    "normal": normal,
    "linear_quadratic": linear_quadratic,
    "kl_optimal": kl_optimal,
}
