"""Inference: patch features, length of what the subspace leaves of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adbench.methods.patches import PatchDetector


class SubspaceDetector(PatchDetector):
    """Backbone, mean and principal components.

    Args:
        backbone, image_size, patch, score, sigma: as ``PatchDetector``.
        components: d, columns of the basis.
    """

    mean: Tensor
    basis: Tensor

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        image_size: Sequence[int],
        components: int,
        patch: int | None = None,
        score: str = "map",
        sigma: float = 4.0,
    ) -> None:
        super().__init__(backbone, image_size, patch, sigma, score)
        self.register_buffer("mean", torch.zeros(self.columns))
        self.register_buffer("basis", torch.zeros(self.columns, components))
        self.config["components"] = components

    def set_subspace(self, mean: Tensor, basis: Tensor) -> None:
        """Take over mean [C] and orthonormal basis [C, d]."""
        self.mean, self.basis = mean.to(self.mean), basis.to(self.basis)
        self.config["components"] = basis.shape[1]

    def distances(self, rows: Tensor) -> Tensor:
        centred = rows - self.mean
        left = centred - (centred @ self.basis) @ self.basis.mT
        return torch.linalg.vector_norm(left, dim=-1)
