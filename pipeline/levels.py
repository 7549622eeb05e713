"""Ranges of noise levels, in which an entry of a conditioning or a ControlNet applies."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..samplers import NoiseSchedule

SLACK = 1e-6  # of a noise level: float32 and float64 count as equal


@dataclass(frozen=True)
class Levels:
    """The noise levels from the first, the highest, to the last."""

    first: float = math.inf
    last: float = 0.0

    def cover(self, sigma: float) -> bool:
        """Whether a noise level is among them."""
        return self.last * (1 - SLACK) <= sigma <= self.first * (1 + SLACK)


ALL = Levels()


def levels(schedule: NoiseSchedule, start: float, end: float) -> Levels:
    """Return the noise levels between two shares 0..1 of the schedule's timesteps."""
    return Levels(_after(schedule, start), _after(schedule, end))


def _after(schedule: NoiseSchedule, share: float) -> float:
    """The noise level after a share of the timesteps: no limit at 0, no noise at 1."""
    if share <= 0:
        return math.inf
    return 0.0 if share >= 1 else schedule.sigma_after(share)
