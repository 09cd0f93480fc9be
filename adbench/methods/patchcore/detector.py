"""Inference: patch features, distance to the nearest of the bank, image score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.methods.memory import refuse_beyond
from adbench.methods.nearest import Bank
from adbench.methods.patches import PatchDetector


class PatchcoreDetector(PatchDetector):
    """Backbone and bank.

    Args:
        backbone, image_size, patch, sigma: as ``PatchDetector``.
        bank: features kept, M.
        distance: ``euclidean``, or ``cosine``: between features of length 1.
        positional: features carry their place, so that near ones are nearer.
        score: ``map``, ``grid``, or ``reweighted``: the largest distance, lowered where
            normal features are rare (``reweighted_score``).
        neighbours: of the nearest feature, for ``reweighted``.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        image_size: Sequence[int],
        bank: int,
        patch: int | None = None,
        distance: str = "euclidean",
        positional: bool = False,
        score: str = "map",
        neighbours: int = 9,
        sigma: float = 4.0,
    ) -> None:
        super().__init__(backbone, image_size, patch, sigma, score)
        self.cosine, self.positional, self.neighbours = distance == "cosine", positional, neighbours
        self.config |= {
            "bank": bank,
            "distance": distance,
            "positional": positional,
            "neighbours": neighbours,
        }
        self.weight: Tensor
        refuse_beyond(8 * bank * self.width, "the bank", "model.bank")
        self.bank = Bank(bank, self.width)
        self.register_buffer("weight", torch.zeros(()))
        self.register_buffer("place", _places(self.grid), persistent=False)

    @property
    def width(self) -> int:
        """Columns of what is compared: those of a feature and, where asked for, its place."""
        return self.columns + 2 * self.positional

    def set_bank(self, rows: Tensor) -> None:
        """Take over the features kept, [M, width]."""
        self.bank.set(rows)
        self.config["bank"] = len(rows)

    def compared(self, features: Tensor) -> Tensor:
        """Return what is compared [B, P, width] of patch features [B, P, C]."""
        rows = F.normalize(features, dim=-1) if self.cosine else features
        if not self.positional:
            return rows
        place: Tensor = self.get_buffer("place") * self.weight
        return torch.cat([rows, place.expand(rows.shape[0], -1, -1)], -1)

    def distances(self, rows: Tensor) -> Tensor:
        return self._nearest(self.compared(rows))

    def _nearest(self, compared: Tensor) -> Tensor:
        return self.bank.nearest(compared.flatten(0, 1)).sqrt().view(-1, self.positions)

    def judged(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        compared = self.compared(rows)
        distance = self._nearest(compared)
        if self.score != "reweighted":
            return distance, distance.amax(1)
        top = distance.argmax(1)
        farthest = compared[torch.arange(rows.shape[0], device=rows.device), top]
        return distance, reweighted_score(farthest, self.bank.exact, self.neighbours)


def reweighted_score(farthest: Tensor, bank: Tensor, neighbours: int) -> Tensor:
    """Return [B]: each image's largest distance, lowered where normal features are rare.

    The factor is 1 minus the share that exp(distance) to the nearest feature has in the sum over
    that feature and its nearest ones in the bank (PatchCore, Eq. 7).

    Args:
        farthest: [B, C] the test feature with the largest distance.
        bank: [M, C].
        neighbours: features summed over, the nearest itself included.
    """
    own, index = torch.cdist(farthest, bank).min(1)
    near = torch.cdist(bank[index], bank).topk(min(neighbours, len(bank)), largest=False).indices
    distance = torch.linalg.vector_norm(farthest[:, None] - bank[near], dim=-1)
    return own * (1 - (own - distance.logsumexp(1)).exp())


def _places(grid: tuple[int, int]) -> Tensor:
    """Return [P, 2]: the middle of each position, both sides of the picture in 0..1."""
    rows, columns = ((torch.arange(side) + 0.5) / side for side in grid)
    return torch.cartesian_prod(rows, columns)
