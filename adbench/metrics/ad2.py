"""MVTec AD 2's segmentation and classification F1, at one threshold fixed beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def validation_threshold(maps: Iterable[NDArray[Any]]) -> float:
    """Return mean + 3 standard deviations (population) of all validation pixels, the baseline."""
    count, total, square = 0, 0.0, 0.0
    kept = [np.asarray(m, dtype=np.float64) for m in maps]
    for values in kept:
        count += values.size
        total += float(values.sum())
    mean = total / count
    for values in kept:
        square += float(((values - mean) ** 2).sum())
    return mean + 3 * float(np.sqrt(square / count))


def segmentation_f1(
    maps: Sequence[NDArray[Any]], masks: Sequence[NDArray[np.bool_]], threshold: float
) -> dict[str, float | None]:
    """Return SegF1, precision and recall pooled over all pixels of all images.

    Positive where the map is above ``threshold``. None where nothing is positive either way.
    """
    hit = false = missed = 0
    for anomaly_map, mask in zip(maps, masks, strict=True):
        called = np.asarray(anomaly_map) > threshold
        truth = np.asarray(mask, dtype=bool)
        hit += int((called & truth).sum())
        false += int((called & ~truth).sum())
        missed += int((~called & truth).sum())
    return _f1(hit, false, missed)


def classification_f1(
    maps: Sequence[NDArray[Any]], masks: Sequence[NDArray[np.bool_]], threshold: float
) -> dict[str, float | None]:
    """Return ClassF1, precision and recall: an image is positive if any pixel is."""
    called = np.array([bool((np.asarray(m) > threshold).any()) for m in maps])
    truth = np.array([bool(np.asarray(mask).any()) for mask in masks])
    hit, false = int((called & truth).sum()), int((called & ~truth).sum())
    return _f1(hit, false, int((~called & truth).sum()))


def _f1(hit: int, false: int, missed: int) -> dict[str, float | None]:
    def share(top: int, whole: int) -> float | None:
        return top / whole if whole else None

    return {
        "f1": share(2 * hit, 2 * hit + false + missed),
        "precision": share(hit, hit + false),
        "recall": share(hit, hit + missed),
    }
