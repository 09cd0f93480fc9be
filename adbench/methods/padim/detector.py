"""Inference: Mahalanobis distance of each patch feature to the Gaussian of its position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adbench.methods.memory import refuse_beyond
from adbench.methods.patches import PatchDetector


class PadimDetector(PatchDetector):
    """Backbone, drawn columns, mean and whitening matrix of every position.

    Args:
        backbone, image_size, patch, score, sigma: as ``PatchDetector``.
        columns: d, how many of the features' columns are used.
    """

    index: Tensor
    mean: Tensor
    whitening: Tensor

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        image_size: Sequence[int],
        columns: int,
        patch: int | None = 1,
        score: str = "map",
        sigma: float = 4.0,
    ) -> None:
        super().__init__(backbone, image_size, patch, sigma, score)
        self.config["columns"] = columns
        refuse_beyond(
            8 * self.positions * columns**2, "a covariance at every position", "model.columns"
        )
        self.register_buffer("index", torch.zeros(columns, dtype=torch.long))
        self.register_buffer("mean", torch.zeros(self.positions, columns))
        # Half precision: a distance moves by less than a thousandth.
        shape = (self.positions, columns, columns)
        self.register_buffer("whitening", torch.zeros(shape, dtype=torch.float16))

    def rows(self, image: Tensor) -> Tensor:
        """Return the drawn columns [B, P, d] of images at the working size."""
        return super().rows(image)[..., self.index]

    def distances(self, rows: Tensor) -> Tensor:
        centred = (rows - self.mean).permute(1, 2, 0)  # [P, d, B]
        white = torch.bmm(self.whitening.float(), centred)
        return torch.linalg.vector_norm(white, dim=1).mT
