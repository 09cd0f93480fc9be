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
from scipy.ndimage import binary_fill_holes

from adbench.metrics.regions import region_labels

Maps = Sequence[NDArray[Any]]
_LIMIT = 0.3


def _sampled(
    maps: Maps,
    masks: Maps,
    thresholds: NDArray[Any],
    *,
    dilate: bool = False,
    fill: bool = False,
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return (FPR, PRO) at given thresholds, rule score > threshold."""
    pairs = zip(maps, masks, strict=True)
    normal = np.sort(np.concatenate([m[~np.asarray(t, bool)] for m, t in pairs]))
    rate = (len(normal) - np.searchsorted(normal, thresholds, side="right")) / len(normal)
    overlaps = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        shown = cv2.dilate(anomaly_map, np.ones((5, 5), np.uint8)) if dilate else anomaly_map
        count, labels = region_labels(np.asarray(mask, bool))
        for region in range(1, count + 1):
            inside = labels == region
            area = int(inside.sum())
            if fill:
                inside = binary_fill_holes(inside, np.ones((3, 3)))
            values = np.sort(shown[inside])
            found = len(values) - np.searchsorted(values, thresholds, "right")
            overlaps.append(found / area)
    return rate.astype(np.float64), np.mean(overlaps, axis=0).astype(np.float64)


def _below_the_top(maps: Maps, count: int) -> NDArray[np.floating]:
    """Thresholds from the lowest score in equal steps, the highest score left out.

    A float range with that step can hold one more and end at the highest score.
    """
    low, high = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
    return low + (high - low) / count * np.arange(count)


def glass_pro(maps: Maps, masks: Maps) -> float:
    """200 thresholds; prediction dilated 5x5 for the overlap only; FPR rescaled (papers/000)."""
    thresholds = _below_the_top(maps, 200)
    rate, overlap = _sampled(maps, masks, thresholds, dilate=True)
    kept = rate < _LIMIT
    if not kept.any():
        return 0.0
    x = rate[kept]
    x = (x - x.min()) / (x.max() - x.min() + 1e-10)
    return abs(float(np.trapezoid(overlap[kept], x)))


def glad_pro(maps: Maps, masks: Maps) -> float:
    """200 thresholds; divided by the largest FPR kept, no point at zero (papers/004)."""
    thresholds = _below_the_top(maps, 200)
    rate, overlap = _sampled(maps, masks, thresholds)
    kept = rate < _LIMIT
    if not kept.any() or rate[kept].max() <= 0:
        return 0.0
    x = rate[kept] / rate[kept].max()
    return abs(float(np.trapezoid(overlap[kept], x)))


def realnet_pro(maps: Maps, masks: Maps) -> float | None:
    """1000 steps up to the highest score; holes count as found, so it can exceed 1 (papers/002)."""
    low, high = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
    rate, overlap = _sampled(maps, masks, np.linspace(low, high, 1001), fill=True)
    kept = rate <= _LIMIT
    if not kept.any() or np.ptp(rate[kept]) == 0:
        return None
    x = (rate[kept] - rate[kept].min()) / np.ptp(rate[kept])
    return abs(float(np.trapezoid(overlap[kept], x)))


FLAVOURS: dict[str, Callable[[Maps, Maps], float | None]] = {
    "glass": glass_pro,
    "glad": glad_pro,
    "realnet": realnet_pro,
}
