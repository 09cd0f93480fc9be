"""Local averaging of feature maps as fixed grouped convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.methods.memory import refuse_beyond


@dataclass(frozen=True, slots=True)
class PatchFeatures:
    """Aggregated features t, kept level by level at each level's own resolution.

    Linear maps of the columns commute with bilinear interpolation (its weights sum to one), so
    that a matrix is applied to coarse levels before they are brought to the grid.

    Attributes:
        parts: one [B, h_l, w_l, c_l] tensor a level.
        columns: (start, stop) of each part in t's columns; ranges may overlap.
        grid: (h, w) of the finest level; a row of t is a position, image-major, row-major.
        width: number of columns C.
    """

    parts: list[Tensor]
    columns: list[tuple[int, int]]
    grid: tuple[int, int]
    width: int

    def __len__(self) -> int:
        return self.parts[0].shape[0]

    def image(self, index: int) -> PatchFeatures:
        """Return the features of one image."""
        parts = [part[index : index + 1] for part in self.parts]
        return PatchFeatures(parts, self.columns, self.grid, self.width)

    def rows(self) -> Tensor:
        """Return t [B*h*w, C]."""
        height, width = self.grid
        count = self.parts[0].shape[0]  # len() would fix the batch of an export
        out = self.parts[0].new_zeros(count, height, width, self.width)
        for part, (start, stop) in zip(self.parts, self.columns, strict=True):
            out[..., start:stop] += upsample(part, self.grid)
        return out.reshape(-1, self.width)

    def project(self, weight: Tensor) -> Tensor:
        """Return t weight^T [B*h*w, K] for weight [K, C]."""
        total: Tensor | None = None
        for part, (start, stop) in zip(self.parts, self.columns, strict=True):
            mapped = upsample(part @ weight[:, start:stop].mT, self.grid)
            total = mapped if total is None else total.add_(mapped)
        assert total is not None
        return total.reshape(-1, weight.shape[0])

    def weight_gradient(self, delta: Tensor) -> Tensor:
        """Return delta^T t [K, C] for delta [B*h*w, K]."""
        out = delta.new_zeros(delta.shape[1], self.width)
        grid = delta.view(len(self), *self.grid, -1)
        for part, (start, stop) in zip(self.parts, self.columns, strict=True):
            coarse = upsample_transposed(grid, (part.shape[1], part.shape[2]))
            out[:, start:stop].addmm_(coarse.flatten(0, 2).mT, part.flatten(0, 2))
        return out


def upsample(part: Tensor, size: tuple[int, int]) -> Tensor:
    """Return [B, h, w, K] resized bilinearly (half-pixel centres) to ``size``."""
    if (part.shape[1], part.shape[2]) == size:
        return part
    resized = F.interpolate(
        part.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False
    )
    return resized.permute(0, 2, 3, 1)


def upsample_transposed(grad: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the adjoint of ``upsample`` from ``size`` applied to grad [B, H, W, K]."""
    if (grad.shape[1], grad.shape[2]) == size:
        return grad
    batch, height, width, columns = grad.shape
    coarse = torch.ops.aten.upsample_bilinear2d_backward(
        grad.permute(0, 3, 1, 2), [height, width], [batch, columns, *size], False, None, None
    )
    return coarse.permute(0, 2, 3, 1)


class Aggregation(nn.Module):
    """Neighbourhood means of every level, pooled to ``width`` columns; no parameters.

    ``code``: each level's p x p neighbourhoods, flattened in the order (channel, dy, dx), are
    pooled to ``embed`` numbers by 1-D adaptive averaging; the levels' vectors are chained and
    pooled to ``embed`` again. ``paper``: p x p mean of each channel, levels concatenated. Zero
    padding counts in both. Either is one fixed sparse matrix per level, applied as a grouped
    convolution.

    Args:
        channels: of each level, finest first.
        patch: side p of the neighbourhood.
        embed: columns of the ``code`` form; unused by ``paper``.
        form: ``code`` or ``paper``.
    """

    def __init__(
        self, channels: Sequence[int], patch: int = 3, embed: int = 1536, form: str = "code"
    ) -> None:
        super().__init__()
        self.patch = patch
        self.levels = len(channels)
        if form == "code":
            matrices = _code_matrices(channels, patch, embed)
        else:
            matrices = _paper_matrices(channels, patch)
        self.width = int(matrices[0].shape[0])
        self.columns: list[tuple[int, int]] = []
        self.groups: list[int] = []
        for level, (matrix, count) in enumerate(zip(matrices, channels, strict=True)):
            start, stop = _nonzero_rows(matrix)
            kernel, groups = _grouped(matrix[start:stop], count, patch)
            self.columns.append((start, stop))
            self.groups.append(groups)
            self.register_buffer(f"kernel{level}", kernel.float(), persistent=False)

    def forward(self, maps: Sequence[Tensor]) -> PatchFeatures:
        """Return the features of maps [B, C_l, h_l, w_l], finest level first."""
        parts = [
            self.level(level, found).permute(0, 2, 3, 1).contiguous()
            for level, found in enumerate(maps)
        ]
        grid = (parts[0].shape[1], parts[0].shape[2])
        return PatchFeatures(parts, self.columns, grid, self.width)

    def level(self, level: int, found: Tensor) -> Tensor:
        """Return the pooled columns [B, c_l, h_l, w_l] of one level's map."""
        kernel = self.get_buffer(f"kernel{level}").to(found.dtype)
        padding = (self.patch - 1) // 2
        found = found.contiguous(memory_format=torch.channels_last)  # twice as fast on a CPU
        return F.conv2d(found, kernel, padding=padding, groups=self.groups[level])

    def grid(self, size: tuple[int, int], stride: int) -> tuple[int, int]:
        """Return the grid of images of ``size`` at a first level of ``stride``."""
        shrink = self.patch - 1 - 2 * ((self.patch - 1) // 2)
        height, width = (math.ceil(side / stride) - shrink for side in size)
        return height, width


def _adaptive_pool(length: int, bins: int) -> Any:
    """Return the sparse [bins, length] matrix of 1-D adaptive average pooling."""
    index = np.arange(bins)
    starts = index * length // bins
    stops = -((-(index + 1) * length) // bins)
    counts = stops - starts
    rows = np.repeat(index, counts)
    columns = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
    return sparse.csr_matrix((np.repeat(1.0 / counts, counts), (rows, columns)), (bins, length))


def _code_matrices(channels: Sequence[int], patch: int, embed: int) -> list[Any]:
    last = _adaptive_pool(len(channels) * embed, embed)
    pools = [_adaptive_pool(count * patch * patch, embed) for count in channels]
    return [(last[:, i * embed : (i + 1) * embed] @ pool).tocsr() for i, pool in enumerate(pools)]


def _paper_matrices(channels: Sequence[int], patch: int) -> list[Any]:
    mean = np.full((1, patch * patch), 1.0 / patch**2)
    own = [sparse.kron(sparse.identity(count), mean).tocsr() for count in channels]
    total, before, found = sum(channels), 0, []
    for matrix, count in zip(own, channels, strict=True):
        above = sparse.csr_matrix((before, matrix.shape[1]))
        below = sparse.csr_matrix((total - before - count, matrix.shape[1]))
        found.append(sparse.vstack([above, matrix, below]).tocsr())
        before += count
    return found


def _nonzero_rows(matrix: Any) -> tuple[int, int]:
    used = np.flatnonzero(np.diff(matrix.indptr))
    return int(used[0]), int(used[-1]) + 1


def _grouped(matrix: Any, channels: int, patch: int) -> tuple[Tensor, int]:
    """Return the kernel [rows, C/groups, p, p] with as many groups as the matrix allows."""
    rows, area = matrix.shape[0], patch * patch
    entries = matrix.tocoo()
    common = math.gcd(rows, channels)
    for groups in sorted((g for g in range(1, common + 1) if common % g == 0), reverse=True):
        row_group = entries.row // (rows // groups)
        if np.array_equal(row_group, entries.col // (channels // groups * area)):
            break
    inside = entries.col - row_group * (channels // groups * area)
    refuse_beyond(
        8 * rows * (channels // groups) * area,
        "the matrix that averages neighbourhoods",
        "model.embed or model.patch",
    )
    kernel = np.zeros((rows, channels // groups * area))
    kernel[entries.row, inside] = entries.data
    shape = (rows, channels // groups, patch, patch)
    return torch.from_numpy(kernel).reshape(shape), groups
