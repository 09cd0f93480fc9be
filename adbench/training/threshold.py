"""The operating threshold, from held-out normal images alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adbench.config.schema import ThresholdKeys
from adbench.errors import UserError
from adbench.runs.files import WAY_OUT, read_record, write_json

if TYPE_CHECKING:  # a line's PC decides without torch
    from adbench.training.evaluate import HeldOut


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
        return Threshold(None, "no normal image was held out", None)
    above = max(int(np.floor(false_alarm_rate * (count + 1) + 1e-9)) - 1, 0)
    value = float(np.sort(np.asarray(scores, dtype=np.float64))[count - 1 - above])
    return Threshold(value, f"{count} held-out normal images", round((above + 1) / (count + 1), 6))


@dataclass(frozen=True, slots=True)
class StoredThreshold:
    """What a run decides by: threshold.json.

    Attributes:
        threshold: of image scores.
        scores: [n] of the held-out normals it came from.
        pixel_threshold: for the maps; None where nothing was held out.
    """

    threshold: Threshold
    scores: NDArray[np.float64]
    pixel_threshold: float | None

    def at(self, false_alarm_rate: float, source: str | None = None) -> StoredThreshold:
        """Return the threshold that the same normals give at a rate.

        Args:
            source: in words, where they are not held-out ones.
        """
        found = threshold_of(self.scores, false_alarm_rate)
        named = found if source is None else replace(found, source=source)
        return replace(self, threshold=named)


FILE = "threshold.json"


def write_threshold(folder: Path, normal: HeldOut, keys: ThresholdKeys) -> StoredThreshold:
    """Take a threshold from normals that their detector never saw, and store it with the run."""
    threshold = threshold_of(normal.scores, keys.false_alarm_rate)
    if normal.source is not None:
        threshold = replace(threshold, source=normal.source)
    document = {
        "schema": 1,
        **asdict(threshold),
        "pixel": normal.pixel_threshold,
        "held_out_scores": normal.scores.tolist(),
    }
    write_json(folder / FILE, document)
    return StoredThreshold(threshold, normal.scores, normal.pixel_threshold)


def read_threshold(folder: Path, name: str = FILE) -> StoredThreshold:
    """Return a run's threshold, or one stored under another name.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = folder / name
    found = read_record(path)
    try:
        value, rate = (_number(found[key]) for key in ("value", "expected_false_alarm_rate"))
        threshold = Threshold(value, str(found["source"]), rate)
        scores = np.array([float(score) for score in found["held_out_scores"]], dtype=np.float64)
        return StoredThreshold(threshold, scores, _number(found["pixel"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); {WAY_OUT}") from error


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def threshold_entry(
    threshold: Threshold, scores: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]
) -> dict[str, Any]:
    """Return the threshold with precision, recall and false alarms on the test set.

    Each is null where it is undefined.
    """
    entry: dict[str, Any] = {**asdict(threshold), "precision": None, "recall": None}
    entry["false_alarm_rate"] = None
    if threshold.value is None:
        return entry
    alarm = np.asarray(scores, dtype=np.float64) > threshold.value
    known = labels >= 0
    hits = int((alarm & (labels == 1)).sum())
    if (alarm & known).any():
        entry["precision"] = hits / int((alarm & known).sum())
    if (labels == 1).any():
        entry["recall"] = hits / int((labels == 1).sum())
    if (labels == 0).any():
        entry["false_alarm_rate"] = int((alarm & (labels == 0)).sum()) / int((labels == 0).sum())
    return entry
