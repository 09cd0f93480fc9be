"""Perlin noise and masks, batched; the one implementation all synthesizers use.

Written as matrix products: a pixel's value is a sum over lattice points of gradient times offset
times fade weights, and both offset and weight are products of a row and a column factor. So the
noise of an image is Py C Qx^T + Qy S Px^T with the lattice's cosines C and sines S.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

MAX_EXPONENT = 5


def perlin_noise(angle: Tensor, cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Return gradient noise in -1..1.

    Args:
        angle: [B, K, K] radians of the lattice's gradients; the first component, cos, runs along
            rows. Entries beyond ``cells + 1`` are unused.
        cells: [B, 2] lattice cells along rows and columns, each below K.
        size: (H, W).

    Returns:
        [B, H, W]: fade 6t^5 - 15t^4 + 10t^3, scaled by the square root of two.
    """
    points = angle.shape[-1]
    rows_weight, rows_offset = _axis(cells[:, 0], size[0], points)
    cols_weight, cols_offset = _axis(cells[:, 1], size[1], points)
    along_rows = rows_offset @ angle.cos() @ cols_weight.mT
    along_cols = rows_weight @ angle.sin() @ cols_offset.mT
    return math.sqrt(2) * (along_rows + along_cols)


def _axis(cells: Tensor, length: int, points: int) -> tuple[Tensor, Tensor]:
    """Return fade weights and weighted offsets of lattice points for every pixel, [B, L, K]."""
    pixel = torch.arange(length, device=cells.device, dtype=torch.float32)
    place = pixel * cells[:, None] / length
    below = place.floor()
    t = place - below
    upper = t**3 * (t * (t * 6 - 15) + 10)
    lattice = torch.arange(points, device=cells.device, dtype=torch.float32)
    is_below = lattice == below[..., None]
    is_above = lattice == below[..., None] + 1
    weight = is_below * (1 - upper)[..., None] + is_above * upper[..., None]
    return weight, weight * (place[..., None] - lattice)


def rotated(values: Tensor, degrees: Tensor, mode: str = "bilinear") -> Tensor:
    """Return maps turned clockwise on the screen about their centre, zero outside.

    Args:
        values: [B, H, W] or [B, C, H, W] float.
        degrees: [B].
        mode: ``bilinear`` or ``nearest``.
    """
    height, width = values.shape[-2:]
    radians = torch.deg2rad(degrees).to(values)
    cos, sin = radians.cos()[:, None], radians.sin()[:, None]
    y = torch.arange(height, device=values.device, dtype=values.dtype) - (height - 1) / 2
    x = torch.arange(width, device=values.device, dtype=values.dtype) - (width - 1) / 2
    across, down = max((width - 1) / 2, 0.5), max((height - 1) / 2, 0.5)
    grid = values.new_empty(len(values), height, width, 2)
    torch.add((sin * y / across)[:, :, None], (cos * x / across)[:, None], out=grid[..., 0])
    torch.sub((cos * y / down)[:, :, None], (sin * x / down)[:, None], out=grid[..., 1])
    maps = values[:, None] if values.dim() == 3 else values
    turned = functional.grid_sample(maps, grid, mode=mode, padding_mode="zeros", align_corners=True)
    return turned.view_as(values)


def uniform(generator: Generator, *shape: int) -> Tensor:
    """Return numbers in [0, 1) on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device)


def perlin_masks(
    count: int,
    size: tuple[int, int],
    generator: Generator,
    *,
    threshold: float = 0.5,
    exponents: tuple[int, int] = (0, MAX_EXPONENT),
) -> Tensor:
    """Return drawn masks [count, H, W] bool: rotated noise above ``threshold``.

    Frequencies are 2^i and 2^j with i, j uniform in ``exponents`` (both ends included), the
    rotation uniform in -90..90 degrees (papers/000, App. A; papers/002, Sec. 3.1).
    """
    low, high = exponents
    drawn = torch.randint(low, high + 1, (count, 2), generator=generator, device=generator.device)
    points = 2**high + 1
    angle = 2 * math.pi * uniform(generator, count, points, points)
    noise = perlin_noise(angle, 2.0**drawn, size)
    degrees = 180 * uniform(generator, count) - 90
    return rotated(noise, degrees) > threshold
