"""From a picture to the working size, from a small score grid to a smooth full-size map."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

TRUNCATE = 4.0


def smooth_upsample(scores: Tensor, size: tuple[int, int], sigma: float = 4.0) -> Tensor:
    """Return ``scores`` brought to ``size`` bilinearly, then blurred by a Gaussian.

    Both are linear and separable, so the two together are one matrix product per axis.

    Args:
        scores: [B, 1, h, w] floating point; the grid of position scores.
        size: (H, W) in pixels of the map wanted.
        sigma: standard deviation of the Gaussian in pixels of the map; 0 leaves it out.

    Returns:
        [B, 1, H, W]: bilinear interpolation (half-pixel centres) followed by a Gaussian cut
        at four sigma with the border mirrored about the pixel edge (scipy's ``reflect``).
    """
    rows = _axis_matrix(scores.shape[-2], size[0], sigma, scores)
    columns = _axis_matrix(scores.shape[-1], size[1], sigma, scores)
    return rows @ (scores @ columns.mT)


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """Return maps [B, 1, H, W] blurred as in ``smooth_upsample``, at their own size."""
    return smooth_upsample(maps, (maps.shape[-2], maps.shape[-1]), sigma)


def working_picture(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return pictures [B, 3, H, W] at the working ``size`` (height, width), squashed.

    The rule of ``adbench.data.fit``, by which training pictures are made: shrinking averages over
    the covered area, growing is bilinear. A detector that is called with a full picture sees what
    it would have seen of the same file in training, but for the rounding to 256 levels.
    """
    height, width = image.shape[-2], image.shape[-1]
    if (height, width) == tuple(size):
        return image
    if height < size[0] or width < size[1]:
        return F.interpolate(image, size=size, mode="bilinear", align_corners=False)
    rows = _area_matrix(height, size[0], image)
    columns = _area_matrix(width, size[1], image)
    return rows @ image @ columns.mT


def _area_matrix(length: int, target: int, like: Tensor) -> Tensor:
    return _on_device(_area_matrix_float64(int(length), int(target)), like.dtype, like.device)


@lru_cache(maxsize=64)
def _area_matrix_float64(length: int, target: int) -> Tensor:
    """Return [target, length]: the share of each place in the ``target`` equal parts of an axis."""
    with torch.inference_mode(False), torch.no_grad():  # kept beyond the call
        edge = torch.arange(target + 1, dtype=torch.float64) * (length / target)
        place = torch.arange(length, dtype=torch.float64)
        low = torch.maximum(edge[:-1, None], place[None])
        high = torch.minimum(edge[1:, None], place[None] + 1)
        return (high - low).clamp_min(0) * (target / length)


@lru_cache(maxsize=128)
def resize_matrix(length: int, target: int, *, aligned: bool = False) -> Tensor:
    """Return W [target, length] float64: ``W @ x`` is ``x`` [length] interpolated linearly.

    The returned tensor is shared between calls: do not write to it.

    Args:
        aligned: the first and last points coincide (``align_corners``); else pixels are areas.
    """
    with torch.inference_mode(False), torch.no_grad():  # kept beyond the call
        unit = torch.eye(length, dtype=torch.float64)[:, None]
        resized = F.interpolate(unit, size=target, mode="linear", align_corners=aligned)
        return resized[:, 0].mT.contiguous()


def resize_matrix_like(length: int, target: int, like: Tensor, *, aligned: bool) -> Tensor:
    """Return ``resize_matrix`` in the type and on the device of ``like``, made once for each."""
    matrix = resize_matrix(int(length), int(target), aligned=aligned)
    return _on_device(matrix, like.dtype, like.device)


def _axis_matrix(length: int, target: int, sigma: float, like: Tensor) -> Tensor:
    matrix = _axis_matrix_float64(int(length), int(target), float(sigma))
    return _on_device(matrix, like.dtype, like.device)


@lru_cache(maxsize=64)
def _on_device(matrix: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # kept beyond the call
        return matrix.to(device=device, dtype=dtype)


@lru_cache(maxsize=64)
def _axis_matrix_float64(length: int, target: int, sigma: float) -> Tensor:
    """Return [target, length] float64: one axis of resize, then blur."""
    with torch.inference_mode(False), torch.no_grad():
        resize = resize_matrix(length, target)
        return _blur_matrix(target, sigma) @ resize if sigma > 0 else resize


def _blur_matrix(length: int, sigma: float) -> Tensor:
    """Return [length, length] float64: Gaussian weights with the border mirrored."""
    radius = int(TRUNCATE * sigma + 0.5)
    offset = torch.arange(-radius, radius + 1)
    weight = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    weight = weight / weight.sum()
    position = torch.arange(length)[:, None] + offset
    folded = position.remainder(2 * length)
    folded = torch.where(folded < length, folded, 2 * length - 1 - folded)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.scatter_add_(1, folded, weight.expand(length, -1).contiguous())
