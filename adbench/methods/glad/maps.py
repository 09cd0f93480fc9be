"""Full-size maps by one matrix per axis, the pixel term, and the score of an image."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

_TRUNCATE = 4.0


def smoothed(maps: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Return maps [B, 1, h, w] at ``size``, blurred: W D W^T.

    W is the bilinear interpolation (corners aligned, as the code has it) followed by a Gaussian
    of 4 sigma each side, the border mirrored about its last pixel's centre. Both are linear: maps
    of one size may be summed before.
    """
    rows = _matrix(int(maps.shape[-2]), size[0], sigma).to(maps)
    columns = _matrix(int(maps.shape[-1]), size[1], sigma).to(maps)
    return rows @ (maps @ columns.mT)


@lru_cache(maxsize=64)
def _matrix(length: int, target: int, sigma: float) -> Tensor:
    """Return [target, length] float64."""
    with torch.inference_mode(False), torch.no_grad():
        unit = torch.eye(length, dtype=torch.float64)[:, None, None, :]
        wide = F.interpolate(unit, size=(1, target), mode="bilinear", align_corners=True)
        enlarge = wide[:, 0, 0, :].mT.contiguous()
        return _blur(target, sigma) @ enlarge if sigma > 0 else enlarge


def _blur(length: int, sigma: float) -> Tensor:
    """Return [length, length] float64; mirrors as often as the kernel is wide."""
    radius = int(_TRUNCATE * sigma + 0.5)
    offset = torch.arange(-radius, radius + 1)
    weight = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    weight = weight / weight.sum()
    period = max(2 * (length - 1), 1)
    folded = (torch.arange(length)[:, None] + offset).remainder(period)
    folded = torch.where(folded < length, folded, period - folded)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.scatter_add_(1, folded, weight.expand(length, -1).contiguous())


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps [B, 1, h, w] at ``size``, corners aligned, not blurred."""
    return smoothed(maps, size, 0.0)


def top_mean(values: Tensor, count: int) -> Tensor:
    """Return [B]: the mean of the ``count`` largest of [B, ...]; of all where there are fewer."""
    flat = values.flatten(1)
    return flat.topk(min(count, flat.shape[1]), dim=1).values.mean(1)


def pixel_difference(first: Tensor, second: Tensor, std: Tensor) -> Tensor:
    """Return [B, 1, H, W]: the channels' mean of |first - second| / std."""
    return ((first - second) / std).abs().mean(1, keepdim=True)
