"""PRO as the papers' repositories computed it: for tables that repeat their figures, never else.

Each takes maps [H, W] and masks [H, W] of a test set and returns one figure. None equals MVTec's
definition; the differences are in the data set notes and in the README of the metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.metrics.regions import region_labels

Maps = Sequence[NDArray[Any]]
_LIMIT = 0.3


def _sampled(
    maps: Maps,
    masks: Maps,
    thresholds: NDArray[Any],
    *,
    dilate: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (FPR, PRO) at given thresholds, rule score > threshold."""
    normal = np.sort(np.concatenate([m[~np.asarray(t, bool)].ravel() for m, t in zip(maps, masks, strict=True)]))
    rate = 1 - np.searchsorted(normal, thresholds, side="right") / len(normal)
    overlaps = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        shown = cv2.dilate(anomaly_map, np.ones((5, 5), np.uint8)) if dilate else anomaly_map
        count, labels = region_labels(np.asarray(mask, bool))
        for region in range(1, count + 1):
            values = np.sort(shown[labels == region])
            overlaps.append(1 - np.searchsorted(values, thresholds, "right") / len(values))
    return rate, np.mean(overlaps, axis=0)


def _range(maps: Maps) -> tuple[float, float]:
    return min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)


def glass_pro(maps: Maps, masks: Maps) -> float:
    """200 thresholds; predictions dilated by 5x5 for the overlap only; FPR rescaled (papers/000)."""
    low, high = _range(maps)
    thresholds = np.arange(low, high, (high - low) / 200)
    rate, overlap = _sampled(maps, masks, thresholds, dilate=True)
    kept = rate < _LIMIT
    if not kept.any():
        return 0.0
    x = rate[kept]
    x = (x - x.min()) / (x.max() - x.min() + 1e-10)
    return abs(float(np.trapezoid(overlap[kept], x)))


def glad_pro(maps: Maps, masks: Maps) -> float:
    """200 thresholds; divided by the largest FPR kept, no point at zero (papers/004)."""
    low, high = _range(maps)
    thresholds = np.arange(low, high, (high - low) / 200)
    rate, overlap = _sampled(maps, masks, thresholds)
    kept = rate < _LIMIT
    if not kept.any() or rate[kept].max() <= 0:
        return 0.0
    x = rate[kept] / rate[kept].max()
    return abs(float(np.trapezoid(overlap[kept], x)))


FLAVOURS: dict[str, Callable[[Maps, Maps], float]] = {
    "glass": glass_pro,
    "glad": glad_pro,
}
