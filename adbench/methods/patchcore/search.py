"""Distance of each patch feature to the nearest of the bank."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK = 2048  # features of the bank compared at a time


class Nearest(NamedTuple):
    """Squared distance [N] float32 to the nearest feature of the bank, and its index [N]."""

    squared: Tensor
    index: Tensor


def plain_nearest(rows: Tensor, bank: Tensor) -> Nearest:
    """Return the nearest of bank [M, C] for rows [N, C], both float32, by one matrix product.

    What ``nearest`` is tested against, and the form that is exported.
    """
    half = bank.square().sum(1) / 2
    best = (half - rows @ bank.mT).min(1)
    squared = (2 * best.values + rows.square().sum(1)).clamp(min=0)
    return Nearest(squared, best.indices)


def nearest(rows: Tensor, bank: Tensor) -> Nearest:
    """Return what ``plain_nearest`` does, with memory for ``_CHUNK`` features of the bank only."""
    half = bank.square().sum(1) / 2
    value = rows.new_full((len(rows),), torch.inf)
    index = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    for start in range(0, len(bank), _CHUNK):
        part = slice(start, start + _CHUNK)
        best = torch.addmm(half[None, part], rows, bank[part].mT, alpha=-1).min(1)
        nearer = best.values < value
        index = torch.where(nearer, best.indices + start, index)
        value = torch.minimum(value, best.values)
    return Nearest((2 * value + rows.square().sum(1)).clamp(min=0), index)
