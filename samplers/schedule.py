"""Noise levels: the training schedule of a model, and the spacings that divide it into sampling steps.

Notation: a = alphas_cumprod, sigma = sqrt((1 - a) / a), t = training timestep 0..999 (t = 0 is the least noise).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# alphas_cumprod at the last timestep under zero terminal SNR; exactly 0 would make sigma infinite (ComfyUI's value)
ZERO_SNR_ALPHA = 4.8973451890853435e-08
TRAINED = 1000  # timesteps
DISTILLED = 20  # the stride of latent consistency models, arXiv:2310.04378


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """The "linear" schedule of the reference code: betas = linspace(sqrt(start), sqrt(end), steps)^2, in float64.

    zero_terminal_snr rescales it so that the last timestep is (almost) pure noise, arXiv:2305.08891 algorithm 1.
    stride: only every stride-th timestep is used, the last among them, and only those are counted.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal_snr: bool = False
    stride: int = 1

    @property
    def steps(self) -> int:
        """The number of timesteps that are used."""
        return len(self.sigmas)

    @cached_property
    def betas(self) -> Tensor:
        """The betas before rescaling for zero terminal SNR: [1000] float64, ascending."""
        return torch.linspace(self.beta_start**0.5, self.beta_end**0.5, TRAINED, dtype=torch.float64) ** 2

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """The cumulative products of 1 - beta: [steps] float64, descending."""
        alphas_cumprod = torch.cumprod(1 - self.betas, dim=0)
        if self.zero_terminal_snr:
            root = alphas_cumprod.sqrt()
            # shift the last value to 0, then scale so that the first keeps its value
            alphas_cumprod = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
            alphas_cumprod[-1] = ZERO_SNR_ALPHA
        return alphas_cumprod[self.stride - 1 :: self.stride]

    @cached_property
    def sigmas(self) -> Tensor:
        """The noise levels of the timesteps: [steps] float64, ascending."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    @cached_property
    def log_sigmas(self) -> Tensor:
        """The logarithms of `sigmas`: [steps] float64, ascending."""
        return self.sigmas.log()

    @property
    def sigma_min(self) -> float:
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        return float(self.sigmas[-1])

    def sigma(self, t: Tensor | float) -> Tensor:
        """Return the noise level of timestep t, float64 on the CPU; fractions interpolate log sigma, t is clamped."""
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu").clamp(0, self.steps - 1)
        low = t.floor().long()
        return self.log_sigmas[low].lerp(self.log_sigmas[t.ceil().long()], t - low).exp()

    def sigma_after(self, share: float) -> float:
        """Return the noise level after a share 0..1 of the trained timesteps."""
        return float(self.sigma(((1 - share) * (TRAINED - 1) + 1) / self.stride - 1))

    def trained_timestep(self, sigma: float) -> int:
        """Return the timestep 0..999 that a network is given at a noise level: the nearest of those that are used."""
        return (round(float(self.timestep(sigma))) + 1) * self.stride - 1

    def timestep(self, sigma: Tensor | float) -> Tensor:
        """Return the fractional timestep of a noise level, the inverse of `sigma`: float64 on the CPU, 0..999."""
        log_sigma = torch.as_tensor(sigma, dtype=torch.float64, device="cpu").log()
        log_sigma = log_sigma.clamp(self.log_sigmas[0], self.log_sigmas[-1])
        high = torch.searchsorted(self.log_sigmas, log_sigma).clamp(min=1)
        below, above = self.log_sigmas[high - 1], self.log_sigmas[high]
        return high - 1 + (log_sigma - below) / (above - below)


Scheduler = Callable[[NoiseSchedule, int], Tensor]


def ldm(schedule: NoiseSchedule, steps: int) -> Tensor:
    """The spacing of the reference DDIMSampler and PLMSSampler, which ends at sigma_min instead of 0.

    t = range(0, 1000, 1000 // steps) + 1, so a step count that does not divide 1000 gives extra steps (30 gives 31).
    If the last t is 1000 (3, 9, 27, 37... steps), the reference raises an IndexError; here it becomes 999.
    """
    stride = max(schedule.steps // _positive(steps), 1)
    # a set, because a stride of 1 gives 999 twice
    timesteps = sorted({min(t + 1, schedule.steps - 1) for t in range(0, schedule.steps, stride)}, reverse=True)
    return schedule.sigmas[[*timesteps, 0]]


def normal(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Evenly spaced timesteps from the last to the first, then 0."""
    return _append_zero(schedule.sigma(torch.linspace(schedule.steps - 1, 0, _positive(steps), dtype=torch.float64)))


def sgm_uniform(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Evenly spaced timesteps without the first one, then 0 (the spacing of Stability's generative-models)."""
    timesteps = torch.linspace(schedule.steps - 1, 0, _positive(steps) + 1, dtype=torch.float64)
    return _append_zero(schedule.sigma(timesteps[:-1]))


def karras(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Evenly spaced sigma^(1/rho) with rho = 7, then 0; Karras et al., arXiv:2206.00364 eq. 5."""
    rho = 7.0
    first, last = schedule.sigma_max ** (1 / rho), schedule.sigma_min ** (1 / rho)
    return _append_zero(torch.linspace(first, last, _positive(steps), dtype=torch.float64) ** rho)


def exponential(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Evenly spaced log sigma, then 0."""
    first, last = math.log(schedule.sigma_max), math.log(schedule.sigma_min)
    return _append_zero(torch.linspace(first, last, _positive(steps), dtype=torch.float64).exp())


def simple(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Every (1000 / steps)-th sigma from the highest, rounded to integer timesteps, then 0."""
    stride = schedule.steps / _positive(steps)
    return _append_zero(schedule.sigmas[[schedule.steps - 1 - int(i * stride) for i in range(steps)]])


def ddim_uniform(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Timesteps 1, 1 + 1000 // steps, ..., then 0; may give extra steps, like `ldm`."""
    stride = max(schedule.steps // _positive(steps), 1)
    return _append_zero(schedule.sigmas[1::stride].flip(0))


def truncate(scheduler: Scheduler, schedule: NoiseSchedule, steps: int, denoise: float) -> Tensor:
    """Return the sigmas of a partial run: denoise 1 gives the whole schedule, 0 an empty one.

    `ldm` follows the reference img2img: the last int(denoise * steps) steps of a schedule of `steps`, at least one.
    The others follow ComfyUI: the last `steps` steps of a schedule of int(steps / denoise).
    """
    if denoise > 0.9999:
        return scheduler(schedule, steps)
    if denoise <= 0:
        return scheduler(schedule, steps)[:0]
    if scheduler is ldm:
        count, total = max(int(denoise * steps), 1), steps
    else:
        count, total = steps, int(steps / denoise)
    return scheduler(schedule, total)[-count - 1 :]


def _append_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def _positive(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"steps is {steps}; set it to at least 1")
    return steps
