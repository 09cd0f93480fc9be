"""Latent width: principal components that explain a share of the variance."""

from __future__ import annotations

import torch
from torch import Tensor


def latent_width(vectors: Tensor, share: float = 0.9) -> int:
    """Return the smallest number of principal components that explain more than ``share``.

    Args:
        vectors: [N, C] features, any dtype; the covariance is taken in float64, O(C^2) memory.
        share: part of the total variance, in (0, 1).
    """
    exact = vectors.to(torch.float64)
    centred = exact - exact.mean(0)
    variance = torch.linalg.eigvalsh(centred.mT @ centred).flip(0).clamp(min=0)
    total = variance.sum()
    if total <= 0:
        return 1
    explained = (variance / total).cumsum(0)
    return min(int((explained <= share).sum()) + 1, vectors.shape[1])
