"""The keys of conf/model/padim.yaml, their types, ranges and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from adbench.config.typed import Positive, Side, Width, Within


@dataclass(frozen=True, slots=True)
class PadimKeys:
    """conf/model/padim.yaml, section ``model``.

    Attributes:
        patch: side of the averaged neighbourhood.
        columns: of the features, drawn by seed; fewer where the backbone has fewer.
        ridge: added to every variance.
        score: image score: largest ``map`` value or largest ``grid`` distance.
        sigma: of the Gaussian on the map, pixels at the working size.
    """

    patch: Side = 1
    columns: Width = 100
    ridge: Positive = 0.01
    score: Literal["map", "grid"] = "map"
    sigma: Annotated[float, Within(0, 256)] = 4.0
