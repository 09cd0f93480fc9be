"""The keys of conf/model/patchcore.yaml, their types, ranges and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from adbench.config.typed import Bytes, Count, Side, Width, Within


@dataclass(frozen=True, slots=True)
class PatchcoreKeys:
    """conf/model/patchcore.yaml, section ``model``.

    Attributes:
        patch: side of the averaged neighbourhood; None: 3, or 1 where all layers have one stride.
        bank: most features kept.
        share: part of the training patches kept, where that is fewer.
        projection: columns of the random projection in which the coreset is chosen; None: none.
        distance: ``cosine`` compares directions only.
        match: ``positional`` compares features of near positions.
        reach: shift that costs as much as features differ on average, share of the picture's side.
        score: image score: largest ``map`` value, largest ``grid`` distance, or it ``reweighted``.
        neighbours: of the nearest feature, for ``reweighted``.
        sigma: of the Gaussian on the map, pixels at the working size.
        max_memory: bytes that candidates of the coreset may take; beyond, a random part is drawn.
    """

    patch: Side | None = None
    bank: Count = 4000
    share: Annotated[float, Within(0, 1, above=True)] = 0.1
    projection: Width | None = 128
    distance: Literal["euclidean", "cosine"] = "euclidean"
    match: Literal["free", "positional"] = "free"
    reach: Annotated[float, Within(0, 1, above=True)] = 0.1
    score: Literal["map", "grid", "reweighted"] = "map"
    neighbours: Annotated[int, Within(2, 1000)] = 9
    sigma: Annotated[float, Within(0, 256)] = 4.0
    max_memory: Bytes = 512 << 20
