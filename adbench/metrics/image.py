"""Image metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adbench.metrics.curves import auroc, average_precision, checked_scores, counted, f1_max

NO_DEFECT = "no defective image in the test set"
NO_GOOD = "no good image in the test set"


def image_metrics(
    score: NDArray[Any], label: NDArray[Any], names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return auroc, ap, f1max and f1max_threshold of a test set.

    Args:
        score: [n] raw scores, higher is more anomalous.
        label: [n] 0 good, 1 defective.
        names: [n] paths, for the error that names an image.

    Returns:
        The figures; None where undefined, with its reason under ``why``. ``f1max_threshold`` is
        the lowest score at which F1 is largest (rule: score >= threshold); it looks at labels and
        is no operating point.

    Raises:
        UserError: a score is NaN or infinite.

    >>> image_metrics(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))["auroc"]
    0.75
    """
    scores = np.asarray(score, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        checked_scores(scores[bad], names[bad[0]] if names else f"image {bad[0]}")
    exact = _ranks(scores)  # scores of float64 may differ by less than float32 resolves
    positive = label.astype(bool)
    counts = counted(exact[positive], None, [np.sort(exact[~positive])], float(positive.sum()))
    best, _ = f1_max(counts)
    threshold = None
    if best is not None:
        threshold = float(scores[_row_of_best(counts, exact)])
    why: dict[str, str] = {}
    if not positive.any():
        why |= dict.fromkeys(("auroc", "ap", "f1max"), NO_DEFECT)
    elif positive.all():
        why |= dict.fromkeys(("auroc", "ap", "f1max"), NO_GOOD)
    return {
        "auroc": auroc(counts),
        "ap": average_precision(counts),
        "f1max": best,
        "f1max_threshold": threshold,
        "why": why,
    }


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float32]:
    _, inverse = np.unique(scores + 0.0, return_inverse=True)
    return np.asarray(inverse, dtype=np.float32)


def _row_of_best(counts: Any, ranks: NDArray[np.float32]) -> int:
    return int(np.flatnonzero(ranks == f1_max(counts)[1])[0])
