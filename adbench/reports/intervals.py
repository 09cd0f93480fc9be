"""AUROC of image scores, and how far it moves when the test images are drawn again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def weighted_auroc(scores: Scores, labels: NDArray[np.int64], weights: Scores) -> Scores:
    """Return the AUROC under each row of weights.

    Args:
        scores, labels: [n]; label 1 is anomalous, 0 normal.
        weights: [b, n], how often each image counts.

    Returns:
        [b], ties counting half; NaN where a class has no weight.
    """
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    positive = weights[:, order] * (labels[order] == 1)
    negative = weights[:, order] * (labels[order] == 0)
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    here_p = np.add.reduceat(positive, starts, axis=1)
    here_n = np.add.reduceat(negative, starts, axis=1)
    below = np.cumsum(here_n, axis=1) - here_n
    won = (here_p * (below + 0.5 * here_n)).sum(axis=1)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.asarray(np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1), np.nan))


def resampled_auroc(scores: Scores, labels: NDArray[np.int64], count: int, seed: int = 0) -> Scores:
    """Return the AUROC of ``count`` bootstrap samples of the labelled images, [count].

    Normal and anomalous images are drawn apart, so that no sample lacks a class.
    """
    known = labels >= 0
    scores, labels = scores[known], labels[known]
    generator = np.random.default_rng(seed)
    weights = np.zeros((count, len(scores)))
    for label in (0, 1):
        places = np.flatnonzero(labels == label)
        if not len(places):
            return np.full(count, np.nan)
        share = np.full(len(places), 1 / len(places))
        weights[:, places] = generator.multinomial(len(places), share, size=count)
    return weighted_auroc(scores, labels, weights)


def interval(samples: Scores, coverage: float = 0.95) -> tuple[float, float] | None:
    """Return the central interval of bootstrap samples; None where they are undefined."""
    if not len(samples) or np.isnan(samples).any():
        return None
    low, high = np.quantile(samples, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)
