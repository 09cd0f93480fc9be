"""Histograms over order-preserving keys of float32 scores, with the error they can make."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from adbench.metrics.curves import area_up_to

Float = NDArray[np.float64]
Bounds = dict[str, tuple[float, float]]


def keys_of(scores: NDArray[np.float32], bits: int) -> NDArray[np.int64]:
    """Return the top ``bits`` bits of keys ordered as the scores are."""
    raw = (scores + np.float32(0)).view(np.uint32)
    key = np.where(raw >> 31, ~raw, raw | np.uint32(1 << 31))
    return (key >> np.uint32(32 - bits)).astype(np.int64)


def value_of(key: int, bits: int) -> float:
    """Return the smallest score that falls into bin ``key``."""
    whole = np.uint32(key << (32 - bits))
    raw = whole & np.uint32(0x7FFFFFFF) if whole >> 31 else ~whole
    return float(np.array(raw, dtype=np.uint32).view(np.float32))


class ScoreHistogram:
    """Normals, positives and region weights per bin; adds over batches, processes and groups.

    Memory: 24 bytes a bin, 2**bits bins.
    """

    def __init__(self, bits: int = 20) -> None:
        self.bits = bits
        self.normal = np.zeros(1 << bits, dtype=np.int64)
        self.positive = np.zeros(1 << bits, dtype=np.int64)
        self.weight = np.zeros(1 << bits)
        self.regions = 0.0

    def add(
        self,
        normal: NDArray[np.float32],
        defect: NDArray[np.float32],
        weight: Float,
        regions: float,
    ) -> None:
        """Add one image's pixels."""
        # adding in place: a bincount would touch every bin for every image
        np.add.at(self.normal, keys_of(normal, self.bits), 1)
        if len(defect):
            key = keys_of(defect, self.bits)
            np.add.at(self.positive, key, 1)
            np.add.at(self.weight, key, weight)
        self.regions += regions

    def merge(self, other: ScoreHistogram) -> None:
        """Add another histogram's counts."""
        self.normal += other.normal
        self.positive += other.positive
        self.weight += other.weight
        self.regions += other.regions

    @property
    def positives(self) -> int:
        """Number of positives."""
        return int(self.positive.sum())

    @property
    def negatives(self) -> int:
        """Number of negatives."""
        return int(self.normal.sum())

    def metrics(self, limits: Mapping[str, float]) -> tuple[dict[str, float | None], Bounds]:
        """Return the figures and, for each, the interval that holds the exact one."""
        used = np.flatnonzero(self.normal + self.positive)[::-1]
        n, p = self.normal[used].astype(np.float64), self.positive[used].astype(np.float64)
        names = ("auroc", "ap", "f1max", "f1max_threshold", *limits)
        found: dict[str, float | None] = dict.fromkeys(names)
        bounds: Bounds = {}
        if not self.positives or not self.negatives:
            return found, bounds
        tp0, fp0 = np.cumsum(p) - p, np.cumsum(n) - n
        found["ap"], bounds["ap"] = _average_precision(n, p, tp0, fp0)
        best, f1, f1_bounds = _f1(n, p, tp0, fp0)
        found["f1max"], bounds["f1max"] = f1, f1_bounds
        found["f1max_threshold"] = value_of(int(used[best]), self.bits)
        found["auroc"], bounds["auroc"] = _auroc(n, p, tp0)
        for name, limit in limits.items():
            found[name], bounds[name] = self._aupro(used, fp0, n, limit)
        return found, bounds

    def _aupro(
        self, used: NDArray[np.int64], fp0: Float, n: Float, limit: float
    ) -> tuple[float, tuple[float, float]]:
        x = np.r_[0.0, (fp0 + n) / n.sum()]
        y = np.r_[0.0, np.cumsum(self.weight[used]) / self.regions]
        value = area_up_to(x, y, limit)
        products = np.diff(x) * np.diff(y)
        below = x[1:] <= limit
        holds = (x[:-1] < limit) & (x[1:] > limit)
        error = (products[below].sum() / 2 + products[holds].sum()) / limit
        return value, (max(value - error, 0.0), min(value + error, 1.0))


def _auroc(n: Float, p: Float, tp0: Float) -> tuple[float, tuple[float, float]]:
    total = n.sum() * p.sum()
    value = float((n * (tp0 + p / 2)).sum() / total)
    error = float((n * p).sum() / (2 * total))
    return value, (max(value - error, 0.0), min(value + error, 1.0))


def _average_precision(
    n: Float, p: Float, tp0: Float, fp0: Float
) -> tuple[float, tuple[float, float]]:
    held = p > 0
    n, p, tp0, fp0 = n[held], p[held], tp0[held], fp0[held]
    c, d = tp0 + fp0, p + n
    safe = np.where(c > 0, c, 1.0)
    mixed = np.where(c > 0, p / d + (tp0 * d - p * c) / d**2 * np.log1p(d / safe), p / d)
    tp1, fp1 = tp0 + p, fp0 + n
    low = p - fp1 * (digamma(tp1 + fp1 + 1) - digamma(tp0 + fp1 + 1))
    high = p * tp1 / (tp1 + fp0)
    total = p.sum()
    value = float((p * mixed).sum() / total)
    return value, (min(float(low.sum() / total), value), max(float(high.sum() / total), value))


def _f1(n: Float, p: Float, tp0: Float, fp0: Float) -> tuple[int, float, tuple[float, float]]:
    total = p.sum()
    edge = 2 * (tp0 + p) / (total + tp0 + p + fp0 + n)
    above = 2 * (tp0 + p) / (total + tp0 + p + fp0)
    best = len(edge) - 1 - int(np.argmax(edge[::-1]))
    return best, float(edge[best]), (float(edge[best]), float(above[p > 0].max()))
