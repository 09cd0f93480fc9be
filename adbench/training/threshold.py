"""The operating threshold, from held-out normal images alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Threshold:
    """A decision rule: anomalous where score > value.

    Attributes:
        value: in raw score units; None where nothing was held out.
        source: what it was taken from.
        expected_false_alarm_rate: share of new normal images expected above it.
    """

    value: float | None
    source: str
    expected_false_alarm_rate: float | None


def threshold_of(scores: NDArray[np.floating[Any]], false_alarm_rate: float) -> Threshold:
    """Return the lowest held-out score that at most the aimed share of normals exceeds.

    With n exchangeable scores and k of them above the threshold, a new normal image exceeds it
    with probability at most (k + 1) / (n + 1). k is the largest with (k + 1) / (n + 1) within the
    aim, or 0 (the maximum) where too few images are held out to promise it.

    >>> threshold_of(np.arange(99.0), 0.05).value
    94.0
    """
    count = len(scores)
    if count == 0:
        return Threshold(None, "nothing held out (dataset.hold_out=0)", None)
    above = max(int(np.floor(false_alarm_rate * (count + 1) + 1e-9)) - 1, 0)
    value = float(np.sort(np.asarray(scores, dtype=np.float64))[count - 1 - above])
    return Threshold(value, f"{count} held-out normal images", round((above + 1) / (count + 1), 6))


def threshold_entry(
    threshold: Threshold, scores: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]
) -> dict[str, Any]:
    """Return the threshold with its precision and recall on the test set (null if undefined)."""
    entry: dict[str, Any] = {**asdict(threshold), "precision": None, "recall": None}
    if threshold.value is None:
        return entry
    alarm = np.asarray(scores, dtype=np.float64) > threshold.value
    known = labels >= 0
    hits = int((alarm & (labels == 1)).sum())
    if (alarm & known).any():
        entry["precision"] = hits / int((alarm & known).sum())
    if (labels == 1).any():
        entry["recall"] = hits / int((labels == 1).sum())
    return entry
