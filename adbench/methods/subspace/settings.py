"""The keys of conf/model/subspace.yaml, their types, ranges and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from adbench.config.typed import Side, Width, Within


@dataclass(frozen=True, slots=True)
class SubspaceKeys:
    """conf/model/subspace.yaml, section ``model``.

    Attributes:
        patch: side of the averaged neighbourhood; None: 3, or 1 where all layers have one stride.
        variance: share of the variance that the components kept explain.
        components: their number instead; None: by ``variance``.
        score: image score: largest ``map`` value or largest ``grid`` residual.
        sigma: of the Gaussian on the map, pixels at the working size.
    """

    patch: Side | None = None
    variance: Annotated[float, Within(0, 1, above=True, below=True)] = 0.99
    components: Width | None = None
    score: Literal["map", "grid"] = "map"
    sigma: Annotated[float, Within(0, 256)] = 4.0
