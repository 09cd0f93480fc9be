"""Regional features: each layer brought to the working size and averaged over patches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.backbones.maps import resize_matrix, resize_matrix_like


def regional_features(
    maps: Sequence[Tensor], size: tuple[int, int], patch: int = 4, stride: int = 4
) -> Tensor:
    """Return [B, sum C_k, gh, gw]: resize to ``size``, average patches, concatenate.

    Resizing (bilinear, corners aligned), replicate padding of (patch - stride) / 2 and the mean
    over patch x patch windows are linear and separable: one matrix per axis and layer, so that
    no map of the working size is ever made.

    Args:
        maps: [B, C_k, h_k, w_k] each.
        size: (H, W) in pixels, multiples of ``stride``.
        patch, stride: side and step of the windows, pixels; their difference is even.
    """
    found = []
    for x in maps:
        rows = _axis_matrix(int(x.shape[-2]), size[0], patch, stride).to(x)
        columns = _axis_matrix(int(x.shape[-1]), size[1], patch, stride).to(x)
        found.append(rows @ (x @ columns.mT))
    return torch.cat(found, 1)


@lru_cache(maxsize=64)
def _axis_matrix(length: int, side: int, patch: int, stride: int) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        resized = resize_matrix(length, side, aligned=True).mT[:, None, :]
        padding = (patch - stride) // 2
        padded = F.pad(resized, (padding, padding), mode="replicate") if padding else resized
        return F.avg_pool1d(padded, patch, stride)[:, 0].mT.contiguous()


def upsampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps [B, 1, h, w] brought to ``size`` bilinearly, corners aligned."""
    rows = resize_matrix_like(maps.shape[-2], size[0], maps, aligned=True)
    columns = resize_matrix_like(maps.shape[-1], size[1], maps, aligned=True)
    return rows @ (maps @ columns.mT)
