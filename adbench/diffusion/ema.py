"""Exponential moving average of weights without a trace of where it started."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def average_weight(decay: float, step: int) -> float:
    """Return the share of the newest weights in the average after ``step`` >= 1 updates.

    The plain average m_t = d m_{t-1} + (1-d) w_t divided by 1 - d^t, the sum of its weights,
    obeys the recursion a_t = a_{t-1} + (1-d)/(1-d^t) (w_t - a_{t-1}): a_1 = w_1, and the initial
    a_0 never enters. After 14.6 thousand steps at d = 0.9999 the uncorrected average would still
    hold 23 % of it.
    """
    return 1.0 if step <= 1 else (1 - decay) / (1 - decay**step)


@torch.no_grad()
def update_average(average: nn.Module, live: nn.Module, decay: float, step: int) -> None:
    """Move the parameters of ``average`` towards ``live`` in place; ``step`` counts from 1."""
    share = average_weight(decay, step)
    old: list[Tensor] = list(average.parameters())
    new = [parameter.detach() for parameter in live.parameters()]
    torch._foreach_lerp_(old, new, share)
    for target, source in zip(average.buffers(), live.buffers(), strict=True):
        target.copy_(source)
