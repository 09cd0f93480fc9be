"""What every loader yields and every method receives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(slots=True)
class Batch:
    """Images of one split at the working size.

    Attributes:
        image: [B, 3, H, W] float32 in 0..1; colour, not normalised.
        label: [B] int64; 0 normal, 1 anomalous, -1 unknown.
        index: [B] int64; position in the split, the key for randomness that must not depend
            on the batch.
        category, defect, path: B strings each; path is relative to the data set's root.
        mask: [B, 1, H, W] bool, True where defective; None where no image of the batch has a
            ground truth (all training batches).
        has_mask: [B] bool; False for a defective image without a mask file, whose pixels count
            in no pixel metric. Normal images have an all-False mask and True here.
    """

    image: Tensor
    label: Tensor
    index: Tensor
    category: list[str]
    defect: list[str]
    path: list[str]
    mask: Tensor | None = None
    has_mask: Tensor | None = None

    def __len__(self) -> int:
        return int(self.image.shape[0])

    def part(self, rows: Sequence[int]) -> Batch:
        """Return the batch of the images at ``rows``, in that order."""
        chosen: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Tensor):
                chosen[each.name] = value[list(rows)]
            elif value is not None:
                chosen[each.name] = [value[i] for i in rows]
        return replace(self, **chosen)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on ``device``."""
        moved = {
            name: value.to(device, non_blocking=non_blocking)
            for name in ("image", "label", "index", "mask", "has_mask")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)


def pictures(image: Tensor) -> list[NDArray[np.uint8]]:
    """Return images [B, 3, H, W] in 0..1 as B arrays [H, W, 3] uint8."""
    pixels = (image.detach() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return list(np.ascontiguousarray(pixels.cpu().numpy()))
