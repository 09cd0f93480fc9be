"""The two losses of RealNet: reconstruction (Eq. 5) and segmentation, their sum Eq. 6."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def reconstruction_loss(
    made: Sequence[Tensor], target: Sequence[Tensor], reduction: str = "mean"
) -> Tensor:
    """Return the sum over blocks of the squared error of reconstructed features (Eq. 5).

    ``mean`` averages over batch, channels and positions of a block, as the authors' code does;
    ``sum`` adds channels and positions and averages over images, as the paper writes it.
    """
    total = made[0].new_zeros(())
    for g, phi in zip(made, target, strict=True):
        part = F.mse_loss(g, phi, reduction=reduction)
        total = total + (part if reduction == "mean" else part / g.shape[0])
    return total


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the mean cross entropy of logits [B, 2, H, W] against mask [B, 1, H, W]."""
    return F.cross_entropy(logits, mask[:, 0].long())
