"""Full-size maps by one matrix per axis; quantile normalisation (Eq. 9)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from adbench.backbones.maps import resize_matrix
from adbench.errors import UserError

TARGET = 0.1
_TRUNCATE = 4.0


def blurred_upsample(maps: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Return maps [B, 1, h, w] brought to ``size`` bilinearly, then blurred.

    The border is mirrored about the centre of the last pixel, as the authors' code does
    (``adbench.backbones.maps`` mirrors about its edge); sigma in pixels of ``size``, 0 for none.
    """
    rows = _matrix(int(maps.shape[-2]), size[0], sigma).to(maps)
    columns = _matrix(int(maps.shape[-1]), size[1], sigma).to(maps)
    return rows @ (maps @ columns.mT)


def check_sigma(sigma: float, size: tuple[int, int]) -> None:
    """Raise UserError where the Gaussian's mirrored border would reach beyond the map."""
    if int(_TRUNCATE * sigma + 0.5) >= min(size):
        raise UserError(
            f"model.map.sigma={sigma:g}: a Gaussian cut at {_TRUNCATE:g} sigma must be smaller "
            f"than the map's {min(size)} px; set it below {min(size) / _TRUNCATE:g}"
        )


@lru_cache(maxsize=32)
def _matrix(length: int, target: int, sigma: float) -> Tensor:
    """Return [target, length] float64: resize one axis, then blur it."""
    with torch.inference_mode(False), torch.no_grad():
        resized = resize_matrix(length, target).mT[:, None, :]
        if sigma > 0:
            radius = int(_TRUNCATE * sigma + 0.5)
            offset = torch.arange(-radius, radius + 1, dtype=torch.float64)
            kernel = torch.exp(-0.5 * (offset / sigma) ** 2)
            padded = F.pad(resized, (radius, radius), mode="reflect")
            resized = F.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1))
        return resized[:, 0].mT.contiguous()


def quantiles(pixels: NDArray[np.float32], alpha: float, beta: float) -> tuple[float, float]:
    """Return q_alpha and q_beta of all pixels of all calibration maps, interpolated linearly."""
    low, high = np.quantile(pixels.ravel().astype(np.float64), [alpha, beta])
    return float(low), float(high)


def normalised(maps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return 0.1 (M - q_alpha) / (q_beta - q_alpha), not clipped.

    The quantile normalisation of Eq. 9, its bracket corrected.
    """
    spread = high - low
    spread = torch.where(spread < 1e-12, torch.ones_like(spread), spread)
    return TARGET * (maps - low) / spread
