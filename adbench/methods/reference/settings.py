"""The keys of conf/model/reference.yaml, their types, ranges and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from adbench.config.typed import Count, Within


@dataclass(frozen=True, slots=True)
class ReferenceKeys:
    """conf/model/reference.yaml, section ``model``.

    Attributes:
        images: at most so many training images, drawn by seed, make the median.
        floor: added to every pixel's deviation, as a part of the full range.
        sigma: of the Gaussian on the map, pixels at the working size.
    """

    images: Count = 256
    floor: Annotated[float, Within(0, 1, above=True)] = 0.02
    sigma: Annotated[float, Within(0, 256)] = 4.0
