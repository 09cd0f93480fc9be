"""The hybrid objective of a diffusion model that learns its variance (Eq. 1, Eq. S2)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from adbench.diffusion.schedule import (
    Schedule,
    denoised,
    entries,
    log_variance,
    noised,
    posterior_mean,
)


class HybridLoss(NamedTuple):
    """Terms per image: mean squared error of the noise and variational bound in bits a value.

    Attributes:
        mse: [B]; its gradient reaches the noise estimate.
        vb: [B]; its gradient reaches the variance alone.
    """

    mse: Tensor
    vb: Tensor

    def total(self, gamma: float, steps: int) -> Tensor:
        """Return the mean over the batch of mse + gamma * T * vb.

        One uniformly drawn step times T estimates the sum over T steps that gamma weighs.
        """
        return (self.mse + gamma * steps * self.vb).mean()


def hybrid_terms(
    schedule: Schedule, x0: Tensor, xt: Tensor, step: Tensor, noise: Tensor, output: Tensor
) -> HybridLoss:
    """Return both terms of the objective.

    Args:
        x0, xt, noise: [B, C, H, W]; images in -1..1, the same with ``noise`` of step [B] added.
        output: [B, 2C, H, W]; the network's noise estimate and variance channels.
    """
    eps, v = output.float().chunk(2, dim=1)
    mse = (noise - eps).square().flatten(1).mean(1)
    return HybridLoss(mse, variational_bits(schedule, x0, xt, step, eps.detach(), v))


def variational_bits(
    schedule: Schedule, x0: Tensor, xt: Tensor, step: Tensor, eps: Tensor, v: Tensor
) -> Tensor:
    """Return one term of the variational bound, [B], in bits per value.

    KL(q(x_{t-1}|x_t,x_0) || p(x_{t-1}|x_t)) for steps above 0; at step 0 the negative
    log-likelihood of the 8-bit image. The estimate of x_0 is not clipped here.
    """
    mean = posterior_mean(schedule, denoised(schedule, xt, step, eps), xt, step)
    log_var = log_variance(schedule, v, step)
    true_mean = posterior_mean(schedule, x0, xt, step)
    true_log_var = entries(schedule.posterior_log_variance, step, xt)
    divergence = gaussian_kl(true_mean, true_log_var, mean, log_var).flatten(1).mean(1)
    likelihood = -pixel_log_likelihood(x0, mean, log_var / 2).flatten(1).mean(1)
    return torch.where(step.to(xt.device) == 0, likelihood, divergence) / math.log(2)


def gaussian_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """Return KL(N1 || N2) elementwise, in nats."""
    ratio = log_var1 - log_var2
    return 0.5 * (ratio.exp() - 1 - ratio + (mean1 - mean2).square() * torch.exp(-log_var2))


def pixel_log_likelihood(x0: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return log p of 8-bit values under a Gaussian, elementwise, in nats.

    Each value owns an interval of width 2/255; the lowest and the highest own the tails. The
    normal distribution function is the tanh approximation, as in the published weights' training.
    """
    centred, scale = x0 - mean, torch.exp(-log_std)
    upper = _normal_cdf(scale * (centred + 1 / 255))
    lower = _normal_cdf(scale * (centred - 1 / 255))
    inside = torch.where(x0 > 0.999, 1 - lower, upper - lower)
    return torch.where(x0 < -0.999, upper, inside).clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def drawn_terms(
    network: torch.nn.Module,
    schedule: Schedule,
    image: Tensor,
    label: Tensor,
    generator: torch.Generator,
) -> HybridLoss:
    """Return the objective at steps and noise drawn from ``generator``.

    Args:
        image: [B, 3, H, W] float32 in 0..1.
        label: [B] int64; class of each image.
    """
    x0 = image * 2 - 1
    step = torch.randint(len(schedule), (len(x0),), generator=generator, device=x0.device)
    noise = torch.randn(x0.shape, generator=generator, device=x0.device)
    xt = noised(schedule, x0, step, noise)
    told = schedule.timesteps.to(x0.device)[step]
    return hybrid_terms(schedule, x0, xt, step, noise, network(xt, told, label))
