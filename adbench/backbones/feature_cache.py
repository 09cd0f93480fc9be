"""Frozen features of images that are not augmented, computed once and kept in half precision."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adbench.errors import UserError

DTYPES: dict[str, type[np.generic]] = {"float16": np.float16, "float32": np.float32}


class FeatureCache:
    """Maps of each image by its position in the split.

    Args:
        count: images to come.
        dtype: ``float16`` (relative rounding 5e-4, half the memory) or ``float32`` (exact).
        max_memory: bytes that may lie in memory; beyond, an unnamed temporary file is mapped,
            which the system removes with the process.
    """

    def __init__(self, count: int, *, dtype: str = "float16", max_memory: int = 4 << 30) -> None:
        if dtype not in DTYPES:
            raise UserError(f"a feature cache of {dtype}: choose one of {', '.join(DTYPES)}")
        self.count, self.dtype, self.max_memory = count, DTYPES[dtype], max_memory
        self.mapped = False
        self.kept: list[NDArray[Any]] = []

    def __len__(self) -> int:
        return self.count

    @property
    def nbytes(self) -> int:
        return sum(kept.nbytes for kept in self.kept)

    @torch.no_grad()
    def fill(self, items: Iterable[Tensor], extract: Callable[[Tensor], Sequence[Tensor]]) -> None:
        """Store ``extract(item)``, a list of maps [B, ...], for batches that come in order.

        Raises:
            ValueError: the batches hold fewer or more images than ``count``.
        """
        start = 0
        for item in items:
            maps = extract(item)
            if not self.kept:
                self._allocate([tuple(found.shape[1:]) for found in maps])
            stop = start + len(maps[0])
            if stop > self.count:
                break
            for kept, found in zip(self.kept, maps, strict=True):
                kept[start:stop] = found.float().cpu().numpy()
            start = stop
        if start != self.count:
            raise ValueError(f"{start} images stored, {self.count} announced")

    def _allocate(self, shapes: Sequence[tuple[int, ...]]) -> None:
        size = np.dtype(self.dtype).itemsize
        total = self.count * sum(int(np.prod(shape)) for shape in shapes) * size
        self.mapped = total > self.max_memory
        for shape in shapes:
            self.kept.append(self._array((self.count, *shape)))

    def _array(self, shape: tuple[int, ...]) -> NDArray[Any]:
        if not self.mapped:
            return np.empty(shape, dtype=self.dtype)
        # numpy keeps the mapping after the file is closed; it has no name left by then.
        with tempfile.TemporaryFile() as file:
            return np.memmap(file, dtype=self.dtype, mode="w+", shape=shape)

    def __call__(self, index: Tensor, device: torch.device | str = "cpu") -> list[Tensor]:
        """Return the maps [B, ...] float32 of the images at ``index`` [B] on ``device``."""
        places = index.cpu().numpy()
        return [
            torch.from_numpy(np.ascontiguousarray(kept[places])).to(device).float()
            for kept in self.kept
        ]
