"""From a score to a verdict: threshold, confidence, and whether the line has changed."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from adbench.errors import UserError
from adbench.training.threshold import StoredThreshold, Threshold

Verdict = Literal["ok", "ng", "error"]


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """How scores are judged; immutable, so that every picture is judged by exactly one rule.

    Attributes:
        stored: threshold of scores, of pixels, and the held-out scores they came from.
        scale: standard deviation of the held-out scores; None with fewer than two different ones.
    """

    stored: StoredThreshold
    scale: float | None

    @classmethod
    def of(cls, stored: StoredThreshold) -> Rule:
        """Return the rule of a run's threshold.json."""
        scores = stored.scores
        deviation = float(scores.std(ddof=1)) if len(scores) > 1 else 0.0
        return cls(stored, deviation if deviation > 0 and math.isfinite(deviation) else None)

    @property
    def threshold(self) -> float:
        """The value above which a score is anomalous.

        Raises:
            UserError: the run has none.
        """
        value = self.stored.threshold.value
        if value is None:
            raise UserError(
                f"there is no threshold ({self.stored.threshold.source}): give threshold=VALUE, "
                "or calibrate=FOLDER with normal pictures"
            )
        return value

    @property
    def pixel_threshold(self) -> float:
        """Above which pixels are part of a region; the image threshold where there is none."""
        own = self.stored.pixel_threshold
        return self.threshold if own is None else own

    def at_value(self, value: float) -> Rule:
        """Return the rule with a threshold that somebody typed."""
        given = Threshold(value, "threshold= of the command line", self.share_above(value))
        return replace(self, stored=replace(self.stored, threshold=given))

    def share_above(self, value: float) -> float | None:
        """Return the share of new normals expected above ``value``: (k + 1) / (n + 1)."""
        scores = self.stored.scores
        if not len(scores):
            return None
        return round((int((scores > value).sum()) + 1) / (len(scores) + 1), 6)

    def verdict(self, score: float) -> Verdict:
        """Return ok or ng; error for a score that is no number."""
        if not math.isfinite(score):
            return "error"
        return "ng" if score > self.threshold else "ok"

    def confidence(self, score: float) -> float | None:
        """Return sigmoid((score - threshold) / scale) in 0..1: 0.5 at the decision."""
        if self.scale is None or not math.isfinite(score):
            return None
        steps = max(-700.0, min(700.0, (score - self.threshold) / self.scale))
        return 1 / (1 + math.exp(-steps))

    def told(self) -> str:
        """Return in words by what is decided."""
        found = self.stored.threshold
        rate = found.expected_false_alarm_rate
        expected = "" if rate is None else f", expected false alarms {rate:.1%}"
        return f"threshold {self.threshold:.6g} from {found.source}{expected}"


_WINDOW = 200  # of the latest normal scores that are compared
_FEWEST = 50  # before anything is said
_EVERY = 25  # scores between two comparisons
_ALPHA = 1e-4  # of a false warning at one comparison


class Drift:
    """Compares what is called normal now with the held-out normals: Kolmogorov-Smirnov.

    The last 200 scores at most against the held-out scores below the threshold (a line's
    anomalies are judged, not counted): a change of the line is told, the size of the history is
    not. Distances beyond sqrt(-ln(alpha / 2) / 2) sqrt((n + m) / (n m)), alpha = 1e-4, count.
    """

    def __init__(self, rule: Rule) -> None:
        scores = rule.stored.scores
        value = rule.stored.threshold.value
        kept = scores if value is None else scores[scores <= value]
        self._held_out: NDArray[np.float64] = np.sort(kept)
        self._latest: deque[float] = deque(maxlen=_WINDOW)
        self._seen = 0
        self.distance: float | None = None
        self.drifted = False

    @property
    def limit(self) -> float:
        """The distance from which on the line has changed; above 1 where nothing can be told."""
        first, second = len(self._held_out), len(self._latest)
        if not first or not second:
            return math.inf
        factor = math.sqrt(-math.log(_ALPHA / 2) / 2)
        return factor * math.sqrt((first + second) / (first * second))

    def add(self, score: float) -> str | None:
        """Take the score of a picture called normal; return a warning when drift begins."""
        self._latest.append(score)
        self._seen += 1
        if self._seen < _FEWEST or self._seen % _EVERY or not len(self._held_out):
            return None
        now = np.sort(np.array(self._latest))
        self.distance = ks_distance(self._held_out, now)
        before, self.drifted = self.drifted, self.distance > self.limit
        if not self.drifted or before:
            return None
        middle, held = float(np.median(now)), float(np.median(self._held_out))
        return (
            f"the line has changed: the last {len(now)} scores called ok (median {middle:.4g}) are "
            f"not distributed as the held-out normals (median {held:.4g}); distance "
            f"{self.distance:.2f}, limit {self.limit:.2f}. Look at light, focus and parts, then "
            "calibrate=FOLDER or train anew"
        )

    def record(self) -> dict[str, Any]:
        """Return it for a summary."""
        limit = self.limit
        return {
            "distance": self.distance,
            "limit": limit if math.isfinite(limit) else None,
            "held_out": len(self._held_out),
            "compared": len(self._latest),
            "drifted": self.drifted,
        }


def ks_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the largest distance between two sorted samples' distribution functions."""
    places = np.concatenate([first, second])
    one = np.searchsorted(first, places, side="right") / len(first)
    other = np.searchsorted(second, places, side="right") / len(second)
    return float(np.abs(one - other).max())
