"""Features of photographs, computed once for several detectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adbench.data.batch import Batch


class RowMemo:
    """Patch features of photographs, kept for detectors that differ in what they are made of.

    Args:
        max_memory: bytes that are kept; photographs beyond are computed each time.
    """

    def __init__(self, max_memory: int = 1 << 29) -> None:
        self.left = max_memory
        self._kept: dict[tuple[str, str, str], Tensor] = {}

    def rows(self, batch: Batch, compute: Callable[[Batch], Tensor], kind: str = "") -> Tensor:
        """Return the features [B, ...] of a batch, by ``compute`` where they are not kept.

        Args:
            kind: tells several features of one photograph apart.
        """
        pairs = zip(batch.category, batch.path, strict=True)
        names = [(kind, category, path) for category, path in pairs]
        absent = [i for i, name in enumerate(names) if name not in self._kept]
        new = dict(zip(absent, compute(batch.part(absent)), strict=True)) if absent else {}
        found = [new[i] if i in new else self._kept[name] for i, name in enumerate(names)]
        for i, rows in new.items():
            size = rows.numel() * rows.element_size()
            if size <= self.left:
                self._kept[names[i]] = rows.clone()
                self.left -= size
        return torch.stack(found)
