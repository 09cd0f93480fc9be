"""Inference: patch features, distance to the nearest of the bank, image score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.methods.memory import refuse_beyond
from adbench.methods.patchcore.search import nearest, plain_nearest
from adbench.methods.patches import PatchDetector


class PatchcoreDetector(PatchDetector):
    """Backbone and bank.

    Args:
        backbone, image_size, patch, sigma: as ``PatchDetector``.
        bank: features kept, M.
        distance: ``euclidean``, or ``cosine``: between features of length 1.
        positional: features carry their place, so that near ones are nearer.
        score: ``map``, ``grid``, or ``reweighted``: the largest distance, lowered where the
            nearest feature lies among others that are as near (``reweighting``).
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
        self.bank: Tensor
        self.weight: Tensor
        refuse_beyond(2 * bank * self.width, "the bank", "model.bank")
        # Half precision: rounds a feature by 5e-4 of its size, far less than features differ.
        self.register_buffer("bank", torch.zeros(bank, self.width, dtype=torch.float16))
        self.register_buffer("weight", torch.zeros(()))
        self.register_buffer("place", _places(self.grid), persistent=False)

    @property
    def width(self) -> int:
        """Columns of what is compared: those of a feature and, where asked for, its place."""
        return self.columns + 2 * self.positional

    def set_bank(self, rows: Tensor) -> None:
        """Take over the features kept, [M, width]."""
        self.bank = rows.to(torch.float16)
        self.config["bank"] = len(rows)

    def compared(self, features: Tensor) -> Tensor:
        """Return what is compared [B, P, width] of patch features [B, P, C]."""
        rows = F.normalize(features, dim=-1) if self.cosine else features
        if not self.positional:
            return rows
        place: Tensor = self.get_buffer("place") * self.weight
        return torch.cat([rows, place.expand(len(rows), -1, -1)], -1)

    def judged(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        compared = self.compared(rows)
        bank = self.bank.float()
        search = plain_nearest if _traced() else nearest
        flat = search(compared.flatten(0, 1), bank)
        distance = flat.squared.sqrt().view(len(rows), -1)
        if self.score != "reweighted":
            return distance, distance.amax(1)
        top = distance.argmax(1, keepdim=True)
        farthest = compared.gather(1, top[..., None].expand(-1, -1, compared.shape[-1]))[:, 0]
        index = flat.index.view(len(rows), -1).gather(1, top)[:, 0]
        factor = reweighting(farthest, index, bank, self.neighbours)
        return distance, factor * distance.gather(1, top)[:, 0]


def reweighting(farthest: Tensor, index: Tensor, bank: Tensor, neighbours: int) -> Tensor:
    """Return the factor [B] of each image's largest distance.

    1 minus the share that exp(distance) to the nearest feature has in the sum over that feature
    and its nearest ones in the bank (PatchCore, Eq. 7).

    Args:
        farthest: [B, C] the test feature with the largest distance.
        index: [B] of its nearest feature.
        bank: [M, C].
        neighbours: features summed over, the nearest itself included.
    """
    near = torch.cdist(bank[index], bank).topk(min(neighbours, len(bank)), largest=False).indices
    distance = torch.linalg.vector_norm(farthest[:, None] - bank[near], dim=-1)
    own = torch.linalg.vector_norm(farthest - bank[index], dim=-1)
    return 1 - (own - distance.logsumexp(1)).exp()


def _places(grid: tuple[int, int]) -> Tensor:
    """Return [P, 2]: the middle of each position, both sides of the picture in 0..1."""
    rows, columns = ((torch.arange(side) + 0.5) / side for side in grid)
    return torch.cartesian_prod(rows, columns)


def _traced() -> bool:
    return bool(torch.jit.is_tracing() or torch.compiler.is_compiling())
