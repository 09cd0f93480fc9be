"""Metrics of generated pictures on any features; formulas whose names the features must earn.

FID, KID, Inception score and IC-LPIPS are these formulas on one set of published weights each. On
other features they are named ``fd@``, ``kd@``, ``is@`` and ``icd@``: such numbers stand beside
their controls, never beside a paper's. numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
# First digits of the SHA-256 of the Inception-v3 weights that the bare names are defined by, as the
# published file's name has them. IC-LPIPS would need LPIPS's own weights: it is never earned here.
STANDARD = dict.fromkeys(("FID", "KID", "IS"), "6726825d")
_PLAIN = {"FID": "fd", "KID": "kd", "IS": "is", "IC-LPIPS": "icd"}
_GROUP = 50  # members of a group that the distance within it is taken over, at most


def metric_name(
    wanted: Literal["FID", "KID", "IS", "IC-LPIPS"], network: str, sha256: str | None
) -> str:
    """Return what a number may be called: the bare name only with the standard weights."""
    digest = (sha256 or "")[:8]
    if digest and STANDARD.get(wanted) == digest:
        return wanted
    return f"{_PLAIN[wanted]}@{network}{'-' + digest if digest else ''}"


def frechet_distance(x: Values, y: Values) -> float:
    """Return |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of features [n, D] and [m, D].

    The last trace is the nuclear norm of Xc Yc^T / sqrt((n - 1)(m - 1)), centred: an n x m matrix
    in place of the root of a D x D one. Biased upwards where n is small beside D.

    Raises:
        ValueError: fewer than two rows.
    """
    _check(x, y)
    a, b = (x - x.mean(0)) / np.sqrt(len(x) - 1), (y - y.mean(0)) / np.sqrt(len(y) - 1)
    cross = float(np.linalg.svd(a @ b.T, compute_uv=False).sum())
    apart = float(((x.mean(0) - y.mean(0)) ** 2).sum())
    return apart + float((a**2).sum()) + float((b**2).sum()) - 2 * cross


def kernel_distance(x: Values, y: Values) -> float:
    """Return the unbiased squared MMD under the kernel (x y / D + 1)^3; may be negative.

    Raises:
        ValueError: fewer than two rows.
    """
    _check(x, y)
    width = x.shape[1]
    n, m = len(x), len(y)
    xx, yy, xy = (((a @ b.T) / width + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    own = float((xx.sum() - np.trace(xx)) / (n * (n - 1)))
    other = float((yy.sum() - np.trace(yy)) / (m * (m - 1)))
    return own + other - 2 * float(xy.mean())


def kernel_distance_interval(
    x: Values, y: Values, seed: int, draws: int = 100
) -> tuple[float, float]:
    """Return the kernel distance and its deviation over subsamples of 90 % without repetition."""
    rng = np.random.default_rng([seed, 0x1D])
    found = []
    for _ in range(draws):
        a = rng.permutation(len(x))[: max(2, round(0.9 * len(x)))]
        b = rng.permutation(len(y))[: max(2, round(0.9 * len(y)))]
        found.append(kernel_distance(x[a], y[b]))
    return kernel_distance(x, y), float(np.std(found))


def inception_score(probabilities: Values) -> float:
    """Return exp of the mean divergence of class probabilities [n, K] from their mean: 1..K."""
    p = np.clip(probabilities, 1e-12, 1)
    mean = p.mean(0)
    return float(np.exp((p * (np.log(p) - np.log(mean))).sum(1).mean()))


def clustered_distance(made: Values, real: Values, seed: int = 0) -> float:
    """Return the mean pairwise distance of made pictures that share their nearest real one.

    Each of ``made`` [n, D] joins the nearest of ``real`` [m, D]; groups with one member say
    nothing; of large groups 50 are drawn. 0 for copies. Counts the canvas's diversity too.
    """
    rng = np.random.default_rng([seed, 0x1C])
    near = np.linalg.norm(made[:, None] - real[None], axis=-1).argmin(1)
    found = []
    for name in np.unique(near):
        rows = np.flatnonzero(near == name)
        if len(rows) < 2:
            continue
        own = made[rng.permutation(rows)[:_GROUP]]
        apart = np.linalg.norm(own[:, None] - own[None], axis=-1)
        found.append(float(apart[np.triu_indices(len(own), 1)].mean()))
    return float(np.mean(found)) if found else 0.0


def copied_share(made: Values, real: Values) -> float:
    """Return the share of ``made`` nearer to a real one than real ones are to each other.

    The bound is a tenth of the median distance of a real one to its nearest; with one real
    picture there is none, and the share is 0.
    """
    if len(real) < 2:
        return 0.0
    among = np.linalg.norm(real[:, None] - real[None], axis=-1)
    np.fill_diagonal(among, np.inf)
    bound = 0.1 * float(np.median(among.min(1)))
    near = np.linalg.norm(made[:, None] - real[None], axis=-1).min(1)
    return float((near <= bound).mean())


def kin_share(made: Values, kinds: Values, real: Values, real_kinds: Values) -> float:
    """Return the share of ``made`` [n, D] whose nearest of ``real`` [m, D] is of their own kind.

    Kinds need not lie apart for it, nor be compact: copies score 1. Each column is divided by the
    real ones' deviation first.
    """
    scale = real.std(0) + 1e-6
    near = np.linalg.norm((made / scale)[:, None] - (real / scale)[None], axis=-1).argmin(1)
    return float((np.asarray(real_kinds)[near] == np.asarray(kinds)).mean())


@dataclass(frozen=True, slots=True)
class Generated:
    """A row of the table: figures of one set, its size, seed and features in the names."""

    name: str
    images: int
    figures: dict[str, float]


def figures_of(
    name: str, made: Values, real: Values, *, network: str, sha256: str | None, seed: int
) -> Generated:
    """Return the row of one set of features [n, D] against the real defects' [m, D].

    Pooling is over all types; n, m and seed stand in the names.
    """
    how = f"n={len(made)},m={len(real)},seed={seed},pooled"
    kd, deviation = kernel_distance_interval(made, real, seed)
    kid = metric_name("KID", network, sha256)
    figures = {
        f"{metric_name('FID', network, sha256)}[{how}]": frechet_distance(made, real),
        f"{kid}[{how}]": kd,
        f"{kid}[{how}].std": deviation,
        f"{metric_name('IC-LPIPS', network, sha256)}[{how}]": clustered_distance(made, real, seed),
        f"copies@{network}[{how}]": copied_share(made, real),
    }
    return Generated(name, len(made), figures)


def table_of(
    sets: Mapping[str, Values],
    real: Values,
    *,
    perlin: Values,
    copies: Values,
    network: str,
    sha256: str | None,
    seed: int,
) -> list[Generated]:
    """Return the rows of ``sets`` and of the two controls, without which there is no table.

    Args:
        sets: name -> features [n, D] of what was made.
        perlin: of normal pictures with Perlin anomalies, which score well wherever diversity does.
        copies: of the real defects themselves, which score best wherever likeness does.
    """
    every = {**sets, "control: Perlin": perlin, "control: plain copies": copies}
    return [
        figures_of(name, rows, real, network=network, sha256=sha256, seed=seed)
        for name, rows in every.items()
    ]


def _check(x: Values, y: Values) -> None:
    if len(x) < 2 or len(y) < 2 or x.shape[1:] != y.shape[1:]:
        raise ValueError(f"features of shapes {x.shape} and {y.shape}: two rows each at least")
