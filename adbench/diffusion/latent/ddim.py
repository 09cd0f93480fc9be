"""Deterministic sampling (DDIM, eta 0) with a level of its own for every image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adbench.diffusion.schedule import Schedule, entries
from adbench.errors import UserError

LEVELS = 1000


def scaled_linear_schedule(
    steps: int = LEVELS, start: float = 0.00085, end: float = 0.012
) -> Schedule:
    """Return Stable Diffusion's schedule: the square roots of the betas are equally spaced."""
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
    return Schedule(torch.arange(steps), betas, torch.cumprod(1 - betas, 0))


@dataclass(frozen=True, slots=True)
class Ddim:
    """``count`` levels t_i = 1 + g (N - 1 - i), i = 0..N-1, with g = floor(T / N).

    The level after the last is the schedule's own index 0, which still holds a little noise.

    Attributes:
        schedule: tables of the process.
        start: T, the level below which the walk begins.
        count: N, how many steps it takes.

    Raises:
        UserError: the levels do not fit into the schedule.
    """

    schedule: Schedule
    start: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.count <= self.start or self.times[0] >= len(self.schedule):
            raise UserError(
                f"a walk from level {self.start} in {self.count} steps does not fit into "
                f"{len(self.schedule)} levels: steps <= start < {len(self.schedule)}"
            )

    @property
    def gap(self) -> int:
        """Levels between two steps."""
        return self.start // self.count

    @property
    def times(self) -> list[int]:
        """The levels, falling."""
        return [1 + self.gap * (self.count - 1 - i) for i in range(self.count)]

    def first_below(self, level: int) -> int:
        """Return the index of the first t_i < ``level``; the last index where there is none."""
        return next((i for i, t in enumerate(self.times) if t < level), self.count - 1)

    def clean(self, latent: Tensor, time: Tensor | int, noise: Tensor) -> Tensor:
        """Return the clean estimate of Eq. 2 for latents [B, C, h, w] at levels [B] or one."""
        signal = entries(self.schedule.alphas_cumprod, time, latent)
        return (latent - (1 - signal).sqrt() * noise) / signal.sqrt()

    def noised(self, clean: Tensor, time: Tensor | int, noise: Tensor) -> Tensor:
        """Return ``clean`` at levels [B] or one (Eq. 1)."""
        signal = entries(self.schedule.alphas_cumprod, time, clean)
        return signal.sqrt() * clean + (1 - signal).sqrt() * noise

    def after(self, clean: Tensor, time: Tensor | int, noise: Tensor) -> Tensor:
        """Return the latent one step below ``time`` (Eq. 3)."""
        below = (torch.as_tensor(time, device="cpu") - self.gap).clamp_min(0)
        return self.noised(clean, below, noise)
