"""A lapped orthogonal transform: 8 x 8 cells whose basis functions reach 16 x 16 pixels.

Patches that end at their borders show as blocks wherever a network errs in one of them; here an
error fades into the neighbours. Nothing is lost and nothing is redundant.

Source: H. S. Malvar and D. H. Staelin, "The LOT: Transform Coding Without Blocking Effects", IEEE
Trans. ASSP 37(4), 1989: the starting point P0 of the even and odd cosines. The rotation of the
coefficients that follows there is left to the principal components.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

CELL = 8
_HALF = CELL // 2


def lapped_rows() -> Tensor:
    """Return the basis [8, 16], float64: rows orthonormal, also to themselves moved by 8."""
    n = torch.arange(CELL, dtype=torch.float64)
    cosines = math.sqrt(2 / CELL) * torch.cos((2 * n + 1) * n[:, None] * math.pi / (2 * CELL))
    cosines[0] /= math.sqrt(2)
    even, odd = cosines[0::2], cosines[1::2]
    apart = even - odd
    same = torch.cat([apart, apart.flip(1)], 1)
    turned = torch.cat([apart, -apart.flip(1)], 1)
    return torch.cat([same, turned]) / 2


def lapped(image: Tensor) -> Tensor:
    """Return the coefficients [B, 64 C, H/8, W/8] of images [B, C, H, W]; edges wrap around."""
    number, colours, height, width = image.shape
    planes = image.reshape(number * colours, 1, height, width)
    padded = F.pad(planes, (_HALF,) * 4, mode="circular")
    found = F.conv2d(padded, _filters(image), stride=CELL)
    return found.view(number, colours * CELL**2, height // CELL, width // CELL)


def unlapped(coefficients: Tensor) -> Tensor:
    """Return the images [B, C, H, W] of coefficients [B, 64 C, H/8, W/8]; undoes ``lapped``."""
    number, channels, rows, columns = coefficients.shape
    planes = coefficients.reshape(number * channels // CELL**2, CELL**2, rows, columns)
    wide = F.conv_transpose2d(planes, _filters(coefficients), stride=CELL)
    for axis in (2, 3):
        wide = _wrapped(wide, axis)
    return wide.view(number, channels // CELL**2, rows * CELL, columns * CELL)


def _wrapped(wide: Tensor, axis: int) -> Tensor:
    """Return the planes without their margins, which are added on the other side."""
    size = wide.shape[axis] - 2 * _HALF
    before, inner, behind = wide.split([_HALF, size, _HALF], axis)
    inner = inner.clone()
    inner.narrow(axis, size - _HALF, _HALF).add_(before)
    inner.narrow(axis, 0, _HALF).add_(behind)
    return inner


def _filters(like: Tensor) -> Tensor:
    rows = lapped_rows()
    found = torch.einsum("iy,jx->ijyx", rows, rows).reshape(CELL**2, 1, 2 * CELL, 2 * CELL)
    return found.to(like)
