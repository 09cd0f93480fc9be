"""Noise schedules of denoising diffusion and their respacing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adbench.errors import UserError


@dataclass(frozen=True, slots=True)
class Schedule:
    """Tables of one diffusion process, float64, one entry a step (index 0 is the least noise).

    Attributes:
        timesteps: [N] int64; what the network is told at each step.
        betas: [N]; variances of the forward steps.
        alphas_cumprod: [N]; share of the signal's variance left after each step.
    """

    timesteps: Tensor
    betas: Tensor
    alphas_cumprod: Tensor

    def __len__(self) -> int:
        return len(self.betas)

    @property
    def alphas_cumprod_prev(self) -> Tensor:
        """[N]; ``alphas_cumprod`` one step earlier, 1 at step 0."""
        return torch.cat([self.alphas_cumprod.new_ones(1), self.alphas_cumprod[:-1]])

    @property
    def posterior_variance(self) -> Tensor:
        """[N]; variance of q(x_{t-1} | x_t, x_0), the paper's beta with a tilde."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @property
    def posterior_log_variance(self) -> Tensor:
        """[N]; its logarithm, the infinite entry at step 0 replaced by that of step 1."""
        variance = self.posterior_variance
        return torch.cat([variance[1:2], variance[1:]]).log()


def linear_schedule(steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> Schedule:
    """Return the linear schedule of DDPM (Ho et al. 2020)."""
    betas = torch.linspace(start, end, steps, dtype=torch.float64)
    return Schedule(torch.arange(steps), betas, torch.cumprod(1 - betas, 0))


def respaced(schedule: Schedule, steps: int) -> Schedule:
    """Return ``schedule`` on every (N // steps)-th of its steps from 0, the variances recomputed.

    Raises:
        UserError: ``steps`` does not lie in 2..N.
    """
    if not 2 <= steps <= len(schedule):
        raise UserError(f"steps={steps}: between 2 and {len(schedule)} reverse steps are possible")
    kept = torch.arange(steps) * (len(schedule) // steps)
    signal = schedule.alphas_cumprod[kept]
    before = torch.cat([signal.new_ones(1), signal[:-1]])
    return Schedule(schedule.timesteps[kept], 1 - signal / before, signal)


def entries(table: Tensor, step: Tensor | int, like: Tensor) -> Tensor:
    """Return ``table[step]`` in the dtype and on the device of ``like``, ready to broadcast.

    Args:
        table: [N] float64.
        step: [B] int64, or one step for the whole batch.
        like: [B, C, H, W].
    """
    chosen = torch.as_tensor(step, device="cpu")
    return table[chosen].to(like.device, like.dtype).reshape(-1, 1, 1, 1)


def noised(schedule: Schedule, x0: Tensor, step: Tensor | int, noise: Tensor) -> Tensor:
    """Return a draw of q(x_t | x_0): images [B, C, H, W] in -1..1 with their share of noise."""
    signal = entries(schedule.alphas_cumprod.sqrt(), step, x0)
    return signal * x0 + entries((1 - schedule.alphas_cumprod).sqrt(), step, x0) * noise


def denoised(schedule: Schedule, x: Tensor, step: Tensor | int, eps: Tensor) -> Tensor:
    """Return the estimate of x_0 that the noise estimate ``eps`` [B, C, H, W] implies."""
    signal = schedule.alphas_cumprod
    scale = entries((1 / signal).sqrt(), step, x)
    return scale * x - entries((1 / signal - 1).sqrt(), step, x) * eps


def posterior_mean(schedule: Schedule, x0: Tensor, x: Tensor, step: Tensor | int) -> Tensor:
    """Return the mean of q(x_{t-1} | x_t, x_0)."""
    before, rest = schedule.alphas_cumprod_prev, 1 - schedule.alphas_cumprod
    of_x0 = schedule.betas * before.sqrt() / rest
    of_x = (1 - before) * (1 - schedule.betas).sqrt() / rest
    return entries(of_x0, step, x) * x0 + entries(of_x, step, x) * x


def log_variance(schedule: Schedule, v: Tensor, step: Tensor | int) -> Tensor:
    """Return the learned log variance (Eq. S1).

    Args:
        v: [B, C, H, W]; the network's variance channels, -1 gives the posterior's variance and
            1 the forward step's, in between is interpolated in the logarithm.
    """
    low = entries(schedule.posterior_log_variance, step, v)
    high = entries(schedule.betas.log(), step, v)
    share = (v + 1) / 2
    return share * high + (1 - share) * low
