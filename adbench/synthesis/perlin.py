"""Perlin noise and the masks made of it, a batch at a time on the device.

GLASS, RealNet, DRAEM, MemSeg and GLAD threshold one and the same noise. It is separable: with
w(t) = 1 - fade(|t|) on |t| < 1, the contribution of the lattice node (i, j) with gradient
(g, h) is g (y-i) w(y-i) w(x-j) + h w(y-i) (x-j) w(x-j), so the whole map is one product of
three small matrices, whatever the number of lattice cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from adbench.errors import UserError
from adbench.synthesis.base import uniform


def axis_weights(length: int, cells: int, nodes: int) -> tuple[Tensor, Tensor]:
    """Return w(t) and t w(t) for every pixel of an axis and every lattice node.

    Pixel p lies at p cells / length; nodes beyond ``cells`` get zeros.

    Returns:
        Two [length, nodes] float32 matrices.
    """
    position = torch.arange(length, dtype=torch.float64) * cells / length
    offset = position[:, None] - torch.arange(nodes, dtype=torch.float64)
    offset[:, cells + 1 :] = 2.0
    near = offset.abs().clamp(max=1.0)
    weight = 1 - near**3 * (near * (near * 6 - 15) + 10)
    return weight.float(), (weight * offset).float()


@lru_cache(maxsize=64)
def _octave_weights(length: int, octaves: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """[octaves, length, nodes] weights for 1, 2, 4, ... cells."""
    nodes = 2 ** (octaves - 1) + 1
    pairs = [axis_weights(length, 2**octave, nodes) for octave in range(octaves)]
    plain, slope = (torch.stack(parts).to(device) for parts in zip(*pairs, strict=True))
    return plain, slope


def _noise(angle: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]) -> Tensor:
    left = torch.cat((rows[1] @ angle.cos(), rows[0] @ angle.sin()), dim=-1)
    right = torch.cat(columns, dim=-1)
    return math.sqrt(2.0) * left @ right.transpose(-1, -2)


def perlin_noise(angle: Tensor, size: tuple[int, int]) -> Tensor:
    """Return Perlin noise of given gradients, in about -1..1; zero on lattice points.

    Args:
        angle: [..., a + 1, b + 1] float, radians; the gradient is (cos, sin), rows first.
        size: (height, width) of the map, which the a x b cells cover.

    Returns:
        [..., H, W] float32.
    """
    a, b = angle.shape[-2] - 1, angle.shape[-1] - 1
    rows = [part.to(angle) for part in axis_weights(size[0], a, a + 1)]
    columns = [part.to(angle) for part in axis_weights(size[1], b, b + 1)]
    return _noise(angle, (rows[0], rows[1]), (columns[0], columns[1]))


def rotate(image: Tensor, degrees: Tensor, *, mode: str = "bilinear") -> Tensor:
    """Rotate each image about its centre, clockwise on screen, with zeros flowing in.

    Args:
        image: [B, C, H, W] float.
        degrees: [B] float.
        mode: ``bilinear`` or ``nearest``.
    """
    height, width = image.shape[-2:]
    radians = torch.deg2rad(degrees.to(image))
    cos, sin = radians.cos(), radians.sin()
    aspect = (height - 1) / max(width - 1, 1)
    zero = torch.zeros_like(cos)
    matrix = torch.stack(
        (torch.stack((cos, sin * aspect, zero), -1), torch.stack((-sin / aspect, cos, zero), -1)), 1
    )
    grid = F.affine_grid(matrix, list(image.shape), align_corners=True)
    return F.grid_sample(image, grid, mode=mode, padding_mode="zeros", align_corners=True)


@dataclass(frozen=True)
class PerlinMasks:
    """Draws binary masks: noise of 2^i x 2^j cells, rotated, thresholded.

    Attributes:
        min_octave, max_octave: i and j are uniform in this range, ends included.
        threshold: True where the noise exceeds it.
        max_angle: rotation is uniform in -max_angle..max_angle degrees; 0: none.
    """

    min_octave: int = 0
    max_octave: int = 5
    threshold: float = 0.5
    max_angle: float = 90.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_octave <= self.max_octave <= 8:
            raise UserError(
                f"perlin octaves {self.min_octave}..{self.max_octave}: need 0 <= min <= max <= 8"
            )

    def noise(self, count: int, size: tuple[int, int], generator: Generator) -> Tensor:
        """Return [count, 1, H, W] float32 noise on the generator's device, rotated."""
        device = generator.device
        octaves = self.max_octave + 1
        nodes = 2**self.max_octave + 1
        drawn = torch.randint(
            self.min_octave, octaves, (2, count), generator=generator, device=device
        )
        angle = torch.rand(count, nodes, nodes, generator=generator, device=device) * 2 * math.pi
        rows = _octave_weights(size[0], octaves, device)
        columns = _octave_weights(size[1], octaves, device)
        noise = _noise(
            angle,
            (rows[0][drawn[0]], rows[1][drawn[0]]),
            (columns[0][drawn[1]], columns[1][drawn[1]]),
        )[:, None]
        if not self.max_angle:
            return noise
        return rotate(noise, uniform(-self.max_angle, self.max_angle, count, generator))

    def __call__(self, count: int, size: tuple[int, int], generator: Generator) -> Tensor:
        """Return [count, 1, H, W] bool masks on the generator's device."""
        return self.noise(count, size, generator) > self.threshold
