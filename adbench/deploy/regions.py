"""Where on a picture something is anomalous: connected regions of a map above a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.data.fit import placement
from adbench.deploy.reading import Reading

MOST = 32  # regions told of one picture, the loudest


@dataclass(frozen=True, slots=True)
class Region:
    """A connected region, in pixels of the picture.

    Attributes:
        box: (left, top, width, height), whole pixels inside the picture.
        area: pixels it covers.
        peak: largest value of the map in it.
    """

    box: tuple[int, int, int, int]
    area: float
    peak: float

    def record(self) -> dict[str, Any]:
        return {"box": list(self.box), "area": round(self.area, 1), "peak": self.peak}


def regions_of(
    working: NDArray[np.float32], threshold: float, reading: Reading, size: tuple[int, int]
) -> list[Region]:
    """Return the regions of a map [h, w] at the working size, by falling peak, at most 32.

    Found at the working size, where their number and cost are bounded whatever the picture's
    size; told in the picture's frame. What ``pad`` added belongs to no region.

    Args:
        threshold: pixels above it (strictly) belong to a region; neighbours touch by 8 sides.
        size: (height, width) of the picture.
    """
    source, target = placement(size, working.shape, reading.fit)
    inside = np.ascontiguousarray(target.of(working))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (inside > threshold).astype(np.uint8), connectivity=8
    )
    if count <= 1:
        return []
    peaks = np.full(count, -np.inf, dtype=np.float64)
    np.maximum.at(peaks, labels.ravel().astype(np.intp), inside.ravel())
    loudest = 1 + np.argsort(-peaks[1:], kind="stable")[:MOST]
    tall, wide = source.height / target.height, source.width / target.width
    found = []
    for label in loudest.tolist():
        left, top, width, height, area = (int(value) for value in stats[label])
        x, y = source.left + int(left * wide), source.top + int(top * tall)
        right = min(source.left + int(np.ceil((left + width) * wide)), size[1])
        bottom = min(source.top + int(np.ceil((top + height) * tall)), size[0])
        box = (x, y, max(right - x, 1), max(bottom - y, 1))
        found.append(Region(box, area * tall * wide, float(peaks[label])))
    return found
