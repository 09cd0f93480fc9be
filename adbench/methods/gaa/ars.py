"""The anomaly-region score (Eq. 7) and its companions, which see what it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.methods.gaa.settings import FilterKeys
from adbench.methods.gaa.units import Mask, Picture

_APART = 5  # pixels around the mask that belong to neither side
Map = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known of one pair.

    Attributes:
        ars: mean raw score inside the mask (Eq. 7).
        ars_z: the same in deviations of normal pixels.
        out_px: mean change outside the mask, in levels of 256.
        out_s: mean rise of the score outside, in deviations.
        fill: share of the mask that is changed visibly.
        moved: share of the change's mass that lies inside the mask.
        centred: whether the change's centre of mass lies in the mask's convex hull.
    """

    ars: float
    ars_z: float
    out_px: float
    out_s: float
    fill: float
    moved: float
    centred: bool

    @property
    def contrast(self) -> float:
        """Score inside less rise outside."""
        return self.ars_z - self.out_s


def region_score(scores: Map, mask: Mask) -> float:
    """Return the mean of a score map [H, W] inside a mask (Eq. 7).

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("the mask is empty: it has no score")
    return float(scores[mask].mean())


def judged(
    image: Picture,
    canvas: Picture,
    mask: Mask,
    scores: Map,
    before: Map,
    *,
    level: float,
    spread: float,
    visible: float,
) -> Judged:
    """Return what a pair is worth.

    Args:
        image, canvas: [H, W, 3] uint8, after and before.
        scores, before: score maps of both.
        level, spread: mean and deviation of normal pixels' scores.
        visible: change in levels of 256 beyond which a pixel counts as changed.
    """
    change = np.abs(image.astype(np.int16) - canvas.astype(np.int16)).max(-1)
    kernel = np.ones((2 * _APART + 1,) * 2, np.uint8)
    outside = cv2.dilate(mask.astype(np.uint8), kernel) == 0
    ars = region_score(scores, mask)
    total = float(change.sum())
    return Judged(
        ars=ars,
        ars_z=(ars - level) / spread,
        out_px=float(change[outside].mean()) if outside.any() else 0.0,
        out_s=float((scores - before)[outside].mean()) / spread if outside.any() else 0.0,
        fill=float((change[mask] > visible).mean()),
        moved=float(change[mask].sum()) / total if total else 0.0,
        centred=bool(total) and _centred(change, mask),
    )


def _centred(change: Map, mask: Mask) -> bool:
    """Whether the centre of mass of a change [H, W] lies in the convex hull of a mask."""
    weight = change.astype(np.float64) / float(change.sum())
    y = float((weight.sum(1) * np.arange(len(weight))).sum())
    x = float((weight.sum(0) * np.arange(weight.shape[1])).sum())
    points = np.argwhere(mask)[:, ::-1].astype(np.int32)
    hull = cv2.convexHull(points)
    return bool(cv2.pointPolygonTest(hull, (x, y), measureDist=True) >= -1)


def kept(pairs: Sequence[tuple[int, Judged]], keys: FilterKeys) -> list[bool]:
    """Return which pairs are kept: the best share within each cluster.

    Args:
        pairs: cluster and judgement of each.
    """
    if keys.score == "none":
        return [True] * len(pairs)
    values = [each.ars if keys.score == "ars" else each.contrast for _, each in pairs]
    chosen = [False] * len(pairs)
    for cluster in {number for number, _ in pairs}:
        own = [i for i, (number, _) in enumerate(pairs) if number == cluster]
        count = max(1, round(keys.keep * len(own)))
        usable = own
        if keys.score == "contrast":
            usable = [i for i in own if pairs[i][1].fill >= keys.fill] or own
        for i in sorted(usable, key=lambda i: (-values[i], i))[:count]:
            chosen[i] = True
    return chosen
