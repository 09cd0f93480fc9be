"""Exact areas and maxima from counts at the scores of positives.

Every curve changes height only at a positive's score: between two of them the false positive rate
moves and nothing else. So negatives are sorted once as plain values, the distinct positive scores
are searched in them, and each metric is a short sum over those scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adbench.errors import UserError

Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts at every distinct positive score v, ascending; [K] each.

    Attributes:
        value: v, float32.
        positive: p(v), positives with score v.
        weight: summed region weights of those positives.
        above: a(v), negatives with a score strictly above v.
        equal: e(v), negatives with score v.
        negatives: N, all negatives.
        regions: sum of all region weights.
    """

    value: NDArray[np.float32]
    positive: Int
    weight: Float
    above: Int
    equal: Int
    negatives: int
    regions: float

    @property
    def positives(self) -> int:
        """P, all positives."""
        return int(self.positive.sum())

    def true_positives(self) -> Int:
        """TP(v): positives with score >= v."""
        found: Int = np.cumsum(self.positive[::-1])[::-1]
        return found


def checked_scores(scores: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Return scores as float32 with -0 turned into +0.

    Raises:
        UserError: a score is NaN or infinite.
    """
    found: NDArray[np.float32] = np.asarray(scores, dtype=np.float32) + np.float32(0)
    if not np.isfinite(found).all():
        raise UserError(f"{name}: a score is not finite (NaN or infinity); the run is no use")
    return found


def grouped(
    value: NDArray[np.float32], weight: Float | None = None
) -> tuple[NDArray[np.float32], Int, Float]:
    """Return distinct values ascending, how many of each, and the sum of their weights."""
    order = np.argsort(value, kind="stable")
    ordered = value[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else order
    counts = np.diff(np.r_[starts, len(ordered)]).astype(np.int64)
    if weight is None:
        return ordered[starts], counts, counts.astype(np.float64)
    sums = np.add.reduceat(weight[order], starts) if len(ordered) else np.zeros(0)
    return ordered[starts], counts, sums


def counted(
    positive: NDArray[np.float32],
    weight: Float | None,
    negatives: Iterable[NDArray[np.float32]],
    regions: float,
) -> Counts:
    """Return the counts of positives against negatives.

    Args:
        positive: [P] scores of positives.
        weight: [P] region weights; None: 1 each.
        negatives: arrays of negatives' scores, each sorted ascending; counts add over them.
        regions: what all weights add up to.
    """
    value, count, sums = grouped(positive, weight)
    above = np.zeros(len(value), dtype=np.int64)
    equal = np.zeros(len(value), dtype=np.int64)
    total = 0
    for scores in negatives:
        left = np.searchsorted(scores, value, side="left")
        if not len(scores):
            continue
        tied = np.flatnonzero(scores[np.minimum(left, len(scores) - 1)] == value)
        right = left.copy()
        right[tied] = np.searchsorted(scores, value[tied], side="right")
        above += len(scores) - right
        equal += right - left
        total += len(scores)
    return Counts(value, count, sums, above, equal, total, regions)


def auroc(counts: Counts) -> float | None:
    """Return the area under the ROC curve, ties counting half; None without both classes."""
    if not counts.positives or not counts.negatives:
        return None
    beaten = counts.positive * (counts.above + 0.5 * counts.equal)
    return float(1 - beaten.sum() / (counts.negatives * counts.positives))


def average_precision(counts: Counts) -> float | None:
    """Return the step-wise area under the precision-recall curve; None with one class only."""
    if not counts.positives or not counts.negatives:
        return None
    true = counts.true_positives()
    precision = true / (true + counts.above + counts.equal)
    return float((counts.positive * precision).sum() / counts.positives)


def f1_max(counts: Counts) -> tuple[float | None, float | None]:
    """Return the largest F1 and the lowest score >= which everything is called positive.

    The maximum lies at a positive's score; (None, None) with one class only.
    """
    if not counts.positives or not counts.negatives:
        return None, None
    true = counts.true_positives()
    f1 = 2 * true / (counts.positives + true + counts.above + counts.equal)
    best = int(np.argmax(f1))
    return float(f1[best]), float(counts.value[best])


def pro_curve(counts: Counts) -> tuple[Float, Float]:
    """Return false positive rate and mean region overlap, from (0, 0) to (1, 1).

    Two points per distinct positive score: before its tie, and after.
    """
    rate = np.stack([counts.above, counts.above + counts.equal], 1)[::-1].ravel()
    height = np.cumsum(counts.weight[::-1]) / counts.regions
    overlap = np.stack([np.r_[0.0, height[:-1]], height], 1).ravel()
    x = np.r_[0.0, rate / counts.negatives, 1.0]
    return x, np.r_[0.0, overlap, 1.0]


def roc_curve(counts: Counts) -> tuple[Float, Float]:
    """Return false and true positive rate, from (0, 0) to (1, 1); two points a positive's score."""
    x = np.stack([counts.above, counts.above + counts.equal], 1)[::-1].ravel() / counts.negatives
    height = np.cumsum(counts.positive[::-1]) / counts.positives
    y = np.stack([np.r_[0.0, height[:-1]], height], 1).ravel()
    return np.r_[0.0, x, 1.0], np.r_[0.0, y, 1.0]


def precision_recall_curve(counts: Counts) -> tuple[Float, Float]:
    """Return recall, ascending, and precision, one point a distinct positive's score."""
    true = counts.true_positives()[::-1]
    precision = true / (true + (counts.above + counts.equal)[::-1])
    return true / counts.positives, precision


def thinned(x: Float, y: Float, points: int = 200) -> tuple[list[float], list[float]]:
    """Return at most ``points`` points of a curve in 0..1, evenly along it, both ends kept."""
    if len(x) > points:
        steps = np.hypot(np.diff(x), np.diff(y))
        length = np.r_[0.0, np.cumsum(steps)]
        wanted = np.linspace(0, length[-1], points)
        places = np.unique(np.searchsorted(length, wanted).clip(0, len(x) - 1))
        x, y = x[places], y[places]
    return np.round(x, 6).tolist(), np.round(y, 6).tolist()


def area_up_to(x: Float, y: Float, limit: float) -> float:
    """Return the trapezoid under the curve from 0 to ``limit``, divided by ``limit``.

    ``x`` ascends; the curve is interpolated linearly at the limit, points on it are included.
    """
    inside = int(np.searchsorted(x, limit, side="right"))
    xs, ys = x[:inside], y[:inside]
    area = float(np.trapezoid(ys, xs))
    if inside < len(x) and xs[-1] < limit:
        share = (limit - xs[-1]) / (x[inside] - xs[-1])
        end = ys[-1] + share * (y[inside] - ys[-1])
        area += float((limit - xs[-1]) * (ys[-1] + end) / 2)
    return area / limit


def aupro(counts: Counts, limit: float) -> float | None:
    """Return the area under the PRO curve up to a false positive rate, in 0..1.

    None where there is no region or no negative. (MVTec AD's definition: Bergmann et al.)
    """
    if not counts.positives or not counts.negatives or counts.regions <= 0:
        return None
    return area_up_to(*pro_curve(counts), limit)


def limit_key(limit: float, prefix: str = "aupro") -> str:
    """Return the name of an area up to a limit: 0.3 -> ``aupro_30``, 0.05 -> ``aupro_05``."""
    percent = f"{limit * 100:g}"
    return f"{prefix}_{percent.zfill(2) if '.' not in percent else percent}"
