"""Spatial-adaptive feature fusion (SAFF, section 3.4, Eq. 6 and 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from adbench.methods.glad.settings import SaffKeys


def fusion_mask(difference: Tensor, delta: float, keys: SaffKeys) -> Tensor:
    """Return m [B, 1, h, w]: the share of the trajectory, from the difference map A.

    ``sigmoid`` is the released form: A >= 0, so m lies between 0.5 and 0.88 and even equal
    places are blended half and half. ``sigmoid_centred`` is 0.5 where A = delta.
    """
    if keys.mask == "none":
        return torch.zeros_like(difference)
    if keys.mask == "sigmoid":
        return difference.sigmoid()
    width = max(keys.sharpness * delta, 1e-12)
    return ((difference - delta) / width).sigmoid()


def fused(trajectory: Tensor, test: Tensor, mask: Tensor) -> Tensor:
    """Return m * trajectory + (1 - m) * test for clean estimates [B, C, h, w]; channels share m."""
    return mask * trajectory + (1 - mask) * test
