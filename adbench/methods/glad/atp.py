"""The anomaly-oriented training target (section 3.5, Eq. 9 and 10, sign corrected)."""

from __future__ import annotations

import torch
from torch import Tensor

from adbench.diffusion.schedule import Schedule, entries

MIXED_LEVELS = 1000


def mixed(normal: Tensor, damaged: Tensor, time: Tensor) -> Tensor:
    """Return latents [B, C, h, w] whose defect fades as the noise does: share t / 1000 (code)."""
    share = (time.to(normal) / MIXED_LEVELS).view(-1, 1, 1, 1)
    return share * damaged + (1 - share) * normal


def defect_weight(schedule: Schedule, time: Tensor, like: Tensor) -> Tensor:
    """Return k_t = sqrt(a_t / (1 - a_t)), the weight of the defect n in the target."""
    signal = entries(schedule.alphas_cumprod, time, like)
    return (signal / (1 - signal)).sqrt()


def repairing_noise(
    schedule: Schedule,
    normal: Tensor,
    damaged: Tensor,
    noise: Tensor,
    time: Tensor,
    *,
    sign: str = "plus",
    k_max: float | None = None,
) -> Tensor:
    """Return the noise estimate that leads from the noised damaged latent to the normal one.

    With z' = sqrt(a) damaged + sqrt(1 - a) noise, Eq. 2 gives the normal latent for
    e* = (z' - sqrt(a) normal) / sqrt(1 - a) = noise + k_t n, n = damaged - normal. Eq. 9 and 10
    print noise - k_t n, which leads to normal + 2 n: ``sign="minus"`` shows it.

    Args:
        normal, damaged, noise: [B, C, h, w].
        time: [B] levels.
        k_max: bound of k_t: above it defects are repaired in part only.
    """
    weight = defect_weight(schedule, time, normal)
    if k_max is not None:
        weight = weight.clamp_max(k_max)
    defect = weight * (damaged - normal)
    return noise + defect if sign == "plus" else noise - defect


def implied_clean(
    schedule: Schedule, damaged: Tensor, noise: Tensor, estimate: Tensor, time: Tensor
) -> Tensor:
    """Return the clean latent that ``estimate`` implies for ``damaged`` noised with ``noise``."""
    weight = defect_weight(schedule, time, damaged)
    return damaged + (noise - estimate) / weight


def squared_error(found: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error over all elements (the paper's norm without its root)."""
    return torch.nn.functional.mse_loss(found, target)
