"""Adaptive multi-round clustering (Eq. 2): how many groups, whether at all, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from adbench.methods.gaa.features import Values, principal
from adbench.methods.gaa.settings import ClusterKeys

Labels = NDArray[np.int64]
_MOST, _EACH = 6, 3  # groups of one split at most, and units for each
_ENOUGH = 6  # units below which a node is not split
_CAP = 1e6  # of the Calinski-Harabasz index, endless for duplicates
_NULL, _AXES = 99, 4  # samples of the null hypothesis, principal axes they are drawn on
_STARTS, _ROUNDS = 4, 12  # of the many small groupings that the null hypothesis needs


@dataclass(frozen=True, slots=True)
class Split:
    """One way to divide a node.

    Attributes:
        labels: [N], 0..k-1.
        ch, db: Calinski-Harabasz (higher is better) and Davies-Bouldin index (lower is).
    """

    labels: Labels
    ch: float
    db: float


def indices(x: Values, labels: Labels) -> tuple[float, float]:
    """Return the Calinski-Harabasz index, capped, and the Davies-Bouldin index of a grouping.

    Centres that coincide are no pair: duplicates would divide by zero.
    """
    names = np.unique(labels)
    k, n = len(names), len(x)
    if k < 2 or n <= k:
        return 0.0, np.inf
    centres = np.stack([x[labels == name].mean(0) for name in names])
    counts = np.array([(labels == name).sum() for name in names])
    inner = np.array(
        [
            np.linalg.norm(x[labels == name] - centre, axis=1).mean()
            for name, centre in zip(names, centres, strict=True)
        ]
    )
    within = sum(
        float(((x[labels == name] - centre) ** 2).sum())
        for name, centre in zip(names, centres, strict=True)
    )
    between = float((counts * ((centres - x.mean(0)) ** 2).sum(1)).sum())
    ch = _CAP if within <= 0 else min(between / (k - 1) / (within / (n - k)), _CAP)
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(apart > 0, (inner[:, None] + inner[None]) / apart, -np.inf)
    worst = ratio.max(1)
    usable = np.isfinite(worst)
    return ch, float(worst[usable].mean()) if usable.any() else np.inf


def candidates(x: Values, seed: int) -> dict[int, Split]:
    """Return k -> grouping for every k that ``x`` [N, D] allows: 2..min(6, N // 3)."""
    different = len(np.unique(x, axis=0))
    found = {}
    for k in range(2, min(_MOST, len(x) // _EACH, different) + 1):
        labels = KMeans(k, n_init=10, random_state=seed).fit_predict(x).astype(np.int64)
        found[k] = Split(labels, *indices(x, labels))
    return found


def chosen_number(splits: dict[int, Split], score: str, w1: float, w2: float) -> int:
    """Return the number of clusters (Eq. 2); 1 where there is no candidate.

    ``ours``: the least of -w1 CH / max CH + w2 DB / max DB. ``paper_literal``: the least of
    w1 CH + w2 DB as printed, which asks for the worst separation.
    """
    if not splits:
        return 1
    if score == "paper_literal":
        return min(splits, key=lambda k: w1 * splits[k].ch + w2 * splits[k].db)
    top = max(split.ch for split in splits.values()) or 1.0
    worst = max((s.db for s in splits.values() if np.isfinite(s.db)), default=1.0) or 1.0

    def cost(k: int) -> float:
        db = splits[k].db if np.isfinite(splits[k].db) else worst
        return -w1 * splits[k].ch / top + w2 * db / worst

    return min(splits, key=cost)


def divided(x: Values, level: float, seed: int) -> bool:
    """Whether a node is more divided than Gaussian samples of its own covariance are.

    The statistic is the best gain over k of the within-group share, in logarithms, against the
    mean of the null samples; node and null samples are treated alike, so that the test holds its
    level whatever N is.
    """
    if level >= 1:
        return True
    axes = principal(x, _AXES)
    deviation = axes.std(0)
    if len(x) < _ENOUGH or not deviation.max() > 1e-9:
        return False
    rng = np.random.default_rng([seed, len(x), 0x6A7E])
    null = rng.standard_normal((_NULL, *axes.shape)) * deviation
    shares = log_shares(np.concatenate([axes[None], null]), rng)
    gain = (shares[1:].mean(0) - shares).max(1)
    p = (1 + (gain[1:] >= gain[0]).sum()) / (1 + _NULL)
    return bool(p <= level)


def log_shares(samples: Values, rng: np.random.Generator) -> Values:
    """Return the logarithm of within-group over total variance [S, K], for each allowed k.

    Args:
        samples: [S, N, D]; all are grouped at once, from several starts each.
    """
    count, n = samples.shape[:2]
    total = ((samples - samples.mean(1, keepdims=True)) ** 2).sum((1, 2)) + 1e-12
    found = []
    for k in range(2, min(_MOST, n // _EACH) + 1):
        starts = np.repeat(samples, _STARTS, axis=0)
        within = _inertia(starts, k, rng).reshape(count, _STARTS).min(1)
        found.append(np.log(np.maximum(within / total, 1e-9)))
    return np.stack(found, 1)


def _inertia(x: Values, k: int, rng: np.random.Generator) -> Values:
    """Return the within-group sum of squares [S] after Lloyd's algorithm in every sample."""
    rows = np.arange(len(x))
    centres = x[rows, rng.integers(x.shape[1], size=len(x))][:, None]
    for _ in range(k - 1):  # k-means++: far points are likelier
        near = ((x[:, :, None] - centres[:, None]) ** 2).sum(-1).min(-1)
        edge = near.cumsum(1)
        drawn = rng.random((len(x), 1)) * edge[:, -1:]
        new = x[rows, (edge < drawn).sum(1).clip(max=x.shape[1] - 1)]
        centres = np.concatenate([centres, new[:, None]], 1)
    for _ in range(_ROUNDS):
        own = ((x[:, :, None] - centres[:, None]) ** 2).sum(-1).argmin(-1)
        member = (own[..., None] == np.arange(k)).astype(np.float64)
        sizes = member.sum(1)[..., None]
        means = np.einsum("snk,snd->skd", member, x) / np.maximum(sizes, 1)
        centres = np.where(sizes > 0, means, centres)
    found: Values = ((x[:, :, None] - centres[:, None]) ** 2).sum(-1).min(-1).sum(-1)
    return found


def dense_bound(n: int) -> float:
    """Return the number of units beyond which a cluster of a node of ``n`` is split again.

    N / (log(0.1 N) + 0.4), natural logarithm; endless where the printed bound is not below N
    (negative for N <= 6, above N up to 18), so that every node is left in the end.
    """
    factor = np.log(0.1 * n) + 0.4
    return float(n / factor) if factor > 1 else float("inf")


def clustered(x: Values, keys: ClusterKeys, seed: int) -> Labels:
    """Return cluster numbers [N] of the units of one type, 0.. by first appearance."""
    labels = np.zeros(len(x), dtype=np.int64)
    if keys.rounds != "none" and len(x):
        _divide(x, np.arange(len(x)), labels, keys, seed, 1)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return np.asarray(rank[inverse.ravel()], dtype=np.int64)


def _divide(
    x: Values, rows: NDArray[np.int64], labels: Labels, keys: ClusterKeys, seed: int, round_: int
) -> None:
    own = x[rows]
    if len(own) < _ENOUGH or not divided(own, keys.gate, seed):
        return
    splits = candidates(own, seed)
    k = chosen_number(splits, keys.score, keys.w1, keys.w2)
    if k < 2:
        return
    found = merged(own, splits[k].labels, keys.smallest)
    parts = np.unique(found)
    if len(parts) < 2:
        return
    for name in parts[1:]:
        labels[rows[found == name]] = labels.max() + 1
    if keys.rounds == "single" or round_ >= keys.depth:
        return
    bound = dense_bound(len(own))
    for name in parts:
        part = rows[found == name]
        if len(part) > bound:
            _divide(x, part, labels, keys, seed, round_ + 1)


def merged(x: Values, labels: Labels, smallest: int) -> Labels:
    """Return labels in which groups of fewer than ``smallest`` have joined the nearest centre."""
    found = labels.copy()
    while True:
        names, counts = np.unique(found, return_counts=True)
        if len(names) < 2 or counts.min() >= smallest:
            return found
        small = names[counts.argmin()]
        centres = {n: x[found == n].mean(0) for n in names}
        others = [n for n in names if n != small]
        near = min(others, key=lambda n: float(((centres[n] - centres[small]) ** 2).sum()))
        found[found == small] = near
