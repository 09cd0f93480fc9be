"""MVTec LOCO's saturated per-region overlap (Bergmann et al., IJCV 2022), from every threshold.

Identity: give the s highest scored pixels of a channel the weight 1/s and the others none. The
saturated overlap min(TP/s, 1) is then a sum of weights, and the area under its curve is computed
as AUPRO is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adbench.metrics.curves import aupro, checked_scores, counted, limit_key

LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)


@dataclass(frozen=True, slots=True)
class Channel:
    """One annotated defect of one image.

    Attributes:
        mask: [H, W] bool; an empty one is no defect and is left out.
        threshold: saturation threshold, pixels, or a share of the area where ``relative``.
        relative: how ``threshold`` is meant.
        name: the defect's name.
    """

    mask: NDArray[np.bool_]
    threshold: float
    relative: bool
    name: str

    @property
    def saturation(self) -> int:
        """Area s in pixels at which the overlap is full, 1 <= s <= area."""
        area = int(self.mask.sum())
        wished = int(np.floor(self.threshold * area)) if self.relative else int(self.threshold)
        return max(min(wished, area), 1)


@dataclass(slots=True)
class _Image:
    subset: str
    normal: NDArray[np.float32]
    scores: list[NDArray[np.float32]]
    names: list[str]


class SproMetrics:
    """Area under sPRO per subset and per defect name; memory O(pixels).

    Args:
        limits: false positive rates up to which the curve is integrated.
    """

    def __init__(self, limits: Sequence[float] = LIMITS) -> None:
        self.limits = tuple(limits)
        self._images: list[_Image] = []

    def update(
        self,
        anomaly_map: NDArray[Any],
        channels: Sequence[Channel],
        subset: str,
        name: str = "image",
    ) -> None:
        """Add one image.

        Args:
            anomaly_map: [H, W] raw scores.
            channels: its annotated defects; none for a good image.
            subset: ``good``, ``logical`` or ``structural``.
            name: path, for errors.
        """
        scores = checked_scores(anomaly_map, name)
        channels = [channel for channel in channels if channel.mask.any()]
        union = np.zeros(scores.shape, dtype=bool)
        tops = []
        for channel in channels:
            union |= channel.mask
            s = channel.saturation
            inside = scores[channel.mask]
            tops.append(np.partition(inside, len(inside) - s)[len(inside) - s :])
        normal = np.sort(scores[~union])
        self._images.append(_Image(subset, normal, tops, [c.name for c in channels]))

    def merge(self, other: SproMetrics) -> None:
        """Take in another process's images."""
        self._images += other._images

    def compute(self) -> dict[str, Any]:
        """Return limit -> area for each subset, their mean, and each defect name.

        Keys of the limits are ``spro_01``, ``spro_05``, ...; None where a subset is empty.
        """
        found: dict[str, Any] = {
            subset: self._areas([i for i in self._images if i.subset in ("good", subset)])
            for subset in ("structural", "logical")
        }
        both = found["structural"], found["logical"]
        found["mean"] = {
            key: None if None in (both[0][key], both[1][key]) else (both[0][key] + both[1][key]) / 2
            for key in both[0]
        }
        names = sorted({name for image in self._images for name in image.names})
        found["by_defect"] = {
            name: self._areas(
                [i for i in self._images if i.subset == "good" or name in i.names], only=name
            )
            for name in names
        }
        return found

    def _areas(self, images: list[_Image], only: str | None = None) -> dict[str, float | None]:
        tops = [
            top
            for image in images
            for top, name in zip(image.scores, image.names, strict=True)
            if only is None or name == only
        ]
        value = np.concatenate(tops) if tops else np.zeros(0, np.float32)
        weight = (
            np.concatenate([np.full(len(t), 1 / len(t)) for t in tops]) if tops else np.zeros(0)
        )
        joined = np.concatenate([image.normal for image in images]) if images else value[:0]
        joined.sort()
        counts = counted(value, weight, [joined], float(len(tops)))
        return {limit_key(limit, "spro"): aupro(counts, limit) for limit in self.limits}
