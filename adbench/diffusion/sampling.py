"""Strength-controllable sampling: reverse diffusion with enlarged noise (SDAS)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from adbench.diffusion.schedule import (
    Schedule,
    denoised,
    entries,
    log_variance,
    posterior_mean,
)
from adbench.diffusion.settings import Form, Variance

Guidance = Callable[[Tensor, Tensor, Tensor], Tensor]


def clean_estimate(schedule: Schedule, x: Tensor, step: int, eps: Tensor) -> Tensor:
    """Return the estimate of x_0 [B, C, H, W], clipped to -1..1."""
    return denoised(schedule, x, step, eps).clamp(-1, 1)


def ancestral_step(
    schedule: Schedule,
    step: int,
    x: Tensor,
    output: Tensor,
    noise: Tensor,
    strength: Tensor,
    gradient: Tensor | None = None,
) -> Tensor:
    """Return a draw of N(mu, (1 + s) Sigma), one reverse step of SDAS (Alg. 1).

    Step 0 adds no noise, so that its result is the mean. With s = 0 it is DDPM's own step.

    Args:
        step: index into ``schedule``.
        x: [B, C, H, W]; the state.
        output: [B, 2C, H, W]; the network's noise estimate and variance channels.
        noise: as x; standard normal.
        strength: [B], s of each image, >= 0.
        gradient: as x; gradient of a classifier's log-probability, already scaled. It shifts
            the mean by Sigma times itself, without the factor 1 + s.
    """
    eps, v = output.chunk(2, dim=1)
    mean = posterior_mean(schedule, clean_estimate(schedule, x, step, eps), x, step)
    log_var = log_variance(schedule, v, step)
    if gradient is not None:
        mean = mean + log_var.exp() * gradient
    if step == 0:
        return mean
    return mean + (1 + _column(strength)).sqrt() * (log_var / 2).exp() * noise


def ddim_step(
    schedule: Schedule,
    step: int,
    x: Tensor,
    output: Tensor,
    noise: Tensor,
    strength: Tensor,
    gradient: Tensor | None = None,
    variance: Variance = "learned",
) -> Tensor:
    """Return one deterministic (eta = 0) step plus noise of variance s Sigma (Alg. S1).

    Args:
        variance: which Sigma: ``learned``, ``beta`` of the forward step or of the ``posterior``.
    """
    eps, v = output.chunk(2, dim=1)
    signal = schedule.alphas_cumprod
    if gradient is not None:
        eps = eps - entries((1 - signal).sqrt(), step, x) * gradient
    x0 = clean_estimate(schedule, x, step, eps)
    scale = entries((1 / signal).sqrt(), step, x)
    eps = (scale * x - x0) / entries((1 / signal - 1).sqrt(), step, x)
    before = schedule.alphas_cumprod_prev
    mean = entries(before.sqrt(), step, x) * x0 + entries((1 - before).sqrt(), step, x) * eps
    if step == 0:
        return mean
    return mean + (_column(strength) * _sigma(schedule, v, step, variance)).sqrt() * noise


def _sigma(schedule: Schedule, v: Tensor, step: int, variance: Variance) -> Tensor:
    if variance == "learned":
        return log_variance(schedule, v, step).exp()
    table = schedule.betas if variance == "beta" else schedule.posterior_variance
    return entries(table, step, v)


def _column(strength: Tensor) -> Tensor:
    return strength.reshape(-1, 1, 1, 1)


@torch.no_grad()
def sampled(
    network: nn.Module,
    schedule: Schedule,
    label: Tensor,
    strength: Tensor,
    generators: Sequence[torch.Generator],
    size: tuple[int, int],
    *,
    form: Form = "ancestral",
    variance: Variance = "learned",
    guidance: Guidance | None = None,
) -> Tensor:
    """Return images [B, 3, H, W] float32 in 0..1, drawn along the whole of ``schedule``.

    Args:
        label: [B] int64, on the network's device.
        strength: [B] float32, on the network's device; 0 gives normal images.
        generators: one per image, on the CPU: an image depends on its own generator only, not
            on the batch that it is drawn in.
        guidance: from (x, timestep [B], label) to a gradient that pulls towards the class.
    """
    device = label.device

    def normal() -> Tensor:
        return torch.stack([torch.randn((3, *size), generator=g) for g in generators]).to(device)

    x = normal()
    for step in reversed(range(len(schedule))):
        timestep = schedule.timesteps[step].to(device).expand(len(x))
        output = network(x, timestep, label).float()
        gradient = None if guidance is None else guidance(x, timestep, label)
        noise = normal() if step else torch.zeros_like(x)
        if form == "ddim":
            x = ddim_step(schedule, step, x, output, noise, strength, gradient, variance)
        else:
            x = ancestral_step(schedule, step, x, output, noise, strength, gradient)
    return ((x + 1) / 2).clamp(0, 1)
