"""Losses of GLASS on discriminator logits (Sec. 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.methods import ranks
from adbench.methods.glass.settings import LossKeys


def gas_loss(logits: Tensor, target: float) -> Tensor:
    """Return the mean cross-entropy of logits [N] against 0, normal (Eq. 5), or 1, GAS (Eq. 6)."""
    wanted = torch.full_like(logits, target)
    return F.binary_cross_entropy_with_logits(logits, wanted)


def las_loss(logits: Tensor, target: Tensor, keys: LossKeys) -> Tensor:
    """Return the focal loss of the local anomalies (Eq. 7) on the hard rows, OHEM (Eq. 8).

    Args:
        logits: [N] floating point.
        target: [N] floating point, 0 or 1.
        keys: kind of loss and share of easy rows left out.
    """
    kept = hard_rows(torch.sigmoid(logits.detach()), target, keys.ohem)
    if keys.las == "bce":
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    else:
        losses = focal_terms(torch.sigmoid(logits), target, keys.gamma, keys.label_smoothing)
    return (losses * kept).sum() / (ranks.summed(kept.sum()) / ranks.size())


def hard_rows(probability: Tensor, target: Tensor, share: float) -> Tensor:
    """Return [N] of 0 and 1: rows whose squared error reaches the ``share`` quantile (OHEM)."""
    if share == 0:
        return torch.ones_like(probability)
    error = (probability - target) ** 2
    return (error >= linear_quantile(ranks.gathered(error), share)).to(probability.dtype)


def focal_terms(
    probability: Tensor, target: Tensor, gamma: float = 2.0, smoothing: float = 1e-5
) -> Tensor:
    """Return the focal loss of each row, [N], unweighted, labels smoothed.

    Args:
        probability: [N] in [0, 1], of being anomalous.
        target: [N], 0 or 1.
    """
    positive = target.clamp(smoothing, 1 - smoothing)
    negative = (1 - target).clamp(smoothing, 1 - smoothing)
    truth = positive * probability + negative * (1 - probability) + smoothing
    return -((1 - truth) ** gamma) * truth.log()


def linear_quantile(values: Tensor, share: float) -> Tensor:
    """Return the ``share`` quantile of values [N], interpolated linearly; N is unbounded."""
    place = share * (values.numel() - 1)
    low = int(place)
    ordered = values.flatten().sort().values
    high = ordered[min(low + 1, values.numel() - 1)]
    return torch.lerp(ordered[low], high, place - low)
