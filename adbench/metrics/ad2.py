"""MVTec AD 2's segmentation and classification F1, at one threshold fixed beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


class PixelMoments:
    """Mean and deviation of the pixels of many maps, one map after another."""

    def __init__(self) -> None:
        self.count, self.mean, self._square = 0, 0.0, 0.0

    def update(self, anomaly_map: NDArray[Any]) -> None:
        """Take in a map of any shape; sums of squares are merged about the common mean."""
        values = np.asarray(anomaly_map, dtype=np.float64)
        mean, size = float(values.mean()), int(values.size)
        apart, both = mean - self.mean, self.count + size
        self._square += float(((values - mean) ** 2).sum()) + apart**2 * self.count * size / both
        self.mean += apart * size / both
        self.count = both

    @property
    def threshold(self) -> float | None:
        """Mean + 3 standard deviations (population), the baseline of AD 2; None without a map."""
        if not self.count:
            return None
        return self.mean + 3 * float(np.sqrt(self._square / self.count))


@dataclass(slots=True)
class _Counts:
    """Pixels [0] and images [1] that are found, called wrongly and missed."""

    hit: list[int] = field(default_factory=lambda: [0, 0])
    false: list[int] = field(default_factory=lambda: [0, 0])
    missed: list[int] = field(default_factory=lambda: [0, 0])

    def scores(self, place: int) -> dict[str, float | None]:
        hit, false, missed = self.hit[place], self.false[place], self.missed[place]
        return {
            "f1": _share(2 * hit, 2 * hit + false + missed),
            "precision": _share(hit, hit + false),
            "recall": _share(hit, hit + missed),
        }


class FixedThresholdF1:
    """SegF1 over all pixels of all images, and ClassF1: an image is positive if any pixel is.

    Args:
        threshold: positive where the map is above it.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._groups: dict[str, _Counts] = {}

    def update(self, anomaly_map: NDArray[Any], mask: NDArray[np.bool_], group: str = "") -> None:
        """Count one image [H, W]; ``group`` is what results are also reported by."""
        called = np.asarray(anomaly_map) > self.threshold
        truth = np.asarray(mask, dtype=bool)
        counts = self._groups.setdefault(group, _Counts())
        pairs = (called, truth), (np.atleast_1d(called.any()), np.atleast_1d(truth.any()))
        for place, (said, true) in enumerate(pairs):
            counts.hit[place] += int((said & true).sum())
            counts.false[place] += int((said & ~true).sum())
            counts.missed[place] += int((~said & true).sum())

    def compute(self, group: str | None = None) -> dict[str, dict[str, float | None]]:
        """Return f1, precision, recall of ``segmentation`` and ``classification``.

        Args:
            group: one group only; None for all images. A share of nothing is None.
        """
        found = _Counts()
        for name, counts in self._groups.items():
            if group is None or name == group:
                for place in (0, 1):
                    found.hit[place] += counts.hit[place]
                    found.false[place] += counts.false[place]
                    found.missed[place] += counts.missed[place]
        return {"segmentation": found.scores(0), "classification": found.scores(1)}


def _share(top: int, whole: int) -> float | None:
    return top / whole if whole else None
