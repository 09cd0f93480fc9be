"""Pixel metrics: exact from one sort, exact in bounded memory, or by histogram with a bound."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from adbench.errors import UserError
from adbench.metrics.curves import (
    Counts,
    aupro,
    auroc,
    average_precision,
    checked_scores,
    counted,
    f1_max,
    limit_key,
    precision_recall_curve,
    pro_curve,
    roc_curve,
    thinned,
)
from adbench.metrics.flavours import FLAVOURS
from adbench.metrics.histogram import ScoreHistogram
from adbench.metrics.regions import region_weights
from adbench.metrics.scores import GroupScores, streamed_counts

Mode = Literal["auto", "exact", "two_pass", "histogram"]


class PixelMetrics:
    """AUROC, AP, F1-max and AUPRO over all pixels of a test set.

    Args:
        limits: false positive rates up to which AUPRO is integrated.
        mode: ``exact`` keeps 4 bytes a pixel; ``two_pass`` keeps normal pixels in files, exact;
            ``histogram`` keeps 2**bits bins a group and states its error; ``auto`` is exact and
            goes over to two passes beyond ``max_memory`` bytes.
        bits: bits of the float32 key a bin keeps.
        tolerance: error beyond which the histogram's result is reported as a range.
        pro_flavour: also compute a repository's own PRO (keeps all maps; for ``reproduce``).

    Memory: O(pixels) exact, O(defect pixels) two-pass, O(2**bits) histogram.
    """

    def __init__(
        self,
        limits: Sequence[float] = (0.3, 0.05),
        mode: Mode = "auto",
        max_memory: int = 4 << 30,
        bits: int = 20,
        tolerance: float = 1e-3,
        pro_flavour: str | None = None,
    ) -> None:
        self.limits = tuple(limits)
        self.mode, self.max_memory, self.bits, self.tolerance = mode, max_memory, bits, tolerance
        self.pro_flavour = pro_flavour
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._groups: dict[str, GroupScores] = {}
        self._histograms: dict[str, ScoreHistogram] = {}
        self._excluded: dict[str, int] = {}
        self._kept: list[tuple[NDArray[np.float32], NDArray[np.bool_], str]] = []
        self._folder: Path | None = None
        if self.mode == "two_pass":
            self._spill()

    def update(
        self,
        anomaly_map: NDArray[Any],
        mask: NDArray[np.bool_] | None,
        group: str = "good",
        name: str = "image",
    ) -> None:
        """Add one image.

        Args:
            anomaly_map: [H, W] raw scores.
            mask: [H, W] bool, True where defective; None: a defective image without ground
                truth, which counts in no pixel metric.
            group: what subsets are made of: ``good``, a defect type, a light.
            name: path, for errors.

        Raises:
            UserError: a score is not finite, or the shapes differ.
        """
        if mask is None:
            self._excluded[group] = self._excluded.get(group, 0) + 1
            return
        scores = checked_scores(anomaly_map, name)
        if scores.shape != mask.shape:
            raise UserError(f"{name}: map {scores.shape} and mask {mask.shape} differ in size")
        if self.pro_flavour is not None:
            self._kept.append((scores, mask, group))
        normal, defect, weight, regions = _separated(scores, mask)
        if self.mode == "histogram":
            histogram = self._histograms.setdefault(group, ScoreHistogram(self.bits))
            histogram.add(normal, defect, weight, regions)
            return
        if group not in self._groups:
            self._groups[group] = GroupScores()
            if self._folder is not None:
                self._groups[group].spill(self._folder)
        self._groups[group].add(normal, defect, weight, regions)
        self._bound_memory()

    def _bound_memory(self) -> None:
        if self.mode != "auto" or self._folder is not None:
            return
        if sum(scores.bytes for scores in self._groups.values()) > self.max_memory:
            self._spill()

    def _spill(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="adbench-metrics-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        for scores in self._groups.values():
            scores.spill(self._folder)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_folder": None}

    def merge(self, other: PixelMetrics) -> None:
        """Take in what another process saw; results do not depend on the order of merging."""
        for name, scores in other._groups.items():
            if name not in self._groups:
                self._groups[name] = GroupScores()
                if self._folder is not None:
                    self._groups[name].spill(self._folder)
            self._groups[name].merge(scores)
        for name, histogram in other._histograms.items():
            self._histograms.setdefault(name, ScoreHistogram(self.bits)).merge(histogram)
        for name, count in other._excluded.items():
            self._excluded[name] = self._excluded.get(name, 0) + count
        self._kept += other._kept
        self._bound_memory()

    def compute(self, groups: Collection[str] | None = None) -> dict[str, Any]:
        """Return the figures of all images, or of those in ``groups``.

        None marks what is undefined, with its reason under ``why``. Histogram results carry
        ``bounds``: the largest possible error of each figure.
        """
        if self.mode == "histogram":
            return self._from_histograms(groups)
        counts = self._counts(groups)
        best, threshold = f1_max(counts)
        found: dict[str, Any] = {
            "auroc": auroc(counts),
            "ap": average_precision(counts),
            "f1max": best,
            "f1max_threshold": threshold,
        }
        found |= {limit_key(limit): aupro(counts, limit) for limit in self.limits}
        if self.pro_flavour is not None:
            found[f"pro_{self.pro_flavour}"] = self._flavoured(groups)
        found["why"] = self._reasons(counts.positives, counts.negatives, groups)
        return found

    def curves(self) -> dict[str, Any]:
        """Return points of the ROC, precision-recall and PRO curves of all pixels.

        Empty where one class is missing, and by histogram, whose points are not kept.
        """
        counts = None if self.mode == "histogram" else self._counts(None)
        if counts is None or not counts.positives or not counts.negatives:
            return {}
        found = {"roc": roc_curve(counts), "pr": precision_recall_curve(counts)}
        if counts.regions > 0:
            found["pro"] = pro_curve(counts)
        return {
            name: dict(zip("xy", thinned(*curve), strict=True)) for name, curve in found.items()
        }

    def _chosen(self, groups: Collection[str] | None) -> list[GroupScores]:
        return [s for name, s in self._groups.items() if groups is None or name in groups]

    def _counts(self, groups: Collection[str] | None) -> Counts:
        chosen = self._chosen(groups)
        pairs = [scores.defect_scores() for scores in chosen]
        value = np.concatenate([v for v, _ in pairs]) if pairs else np.zeros(0, np.float32)
        weight = np.concatenate([w for _, w in pairs]) if pairs else np.zeros(0)
        regions = sum(scores.regions for scores in chosen)
        if self._folder is not None:
            chunks = (chunk for scores in chosen for chunk in scores.chunks())
            return streamed_counts(value, weight, chunks, regions)
        return counted(value, weight, [scores.sorted_normals() for scores in chosen], regions)

    def _reasons(
        self, positives: int, negatives: int, groups: Collection[str] | None
    ) -> dict[str, str]:
        why: dict[str, str] = {}
        names = [limit_key(limit) for limit in self.limits]
        if not positives:
            why |= dict.fromkeys(("auroc", "ap", "f1max", *names), "no defect pixel")
        elif not negatives:
            why |= dict.fromkeys(("auroc", "ap", "f1max", *names), "no normal pixel")
        missing = sum(n for g, n in self._excluded.items() if groups is None or g in groups)
        if missing:
            why["excluded"] = f"{missing} defective images without a mask count in no pixel metric"
        return why

    def _from_histograms(self, groups: Collection[str] | None) -> dict[str, Any]:
        total = ScoreHistogram(self.bits)
        for name, histogram in self._histograms.items():
            if groups is None or name in groups:
                total.merge(histogram)
        found, bounds = total.metrics({limit_key(limit): limit for limit in self.limits})
        why = self._reasons(total.positives, total.negatives, groups)
        for name, (low, high) in bounds.items():
            if high - low > self.tolerance and name not in why:
                why[name] = f"histogram of {self.bits} bits: between {low:.4f} and {high:.4f}"
        return {**found, "why": why, "bounds": bounds}

    def _flavoured(self, groups: Collection[str] | None) -> float | None:
        kept = [(m, t) for m, t, g in self._kept if groups is None or g in groups]
        if not any(mask.any() for _, mask in kept):
            return None
        flavour = FLAVOURS[str(self.pro_flavour)]
        return flavour([m for m, _ in kept], [t for _, t in kept])


def _separated(
    scores: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64], float]:
    if not mask.any():
        return scores.ravel().copy(), np.zeros(0, np.float32), np.zeros(0), 0.0
    weight, regions = region_weights(mask)
    return scores[~mask], scores[mask], weight, float(regions)


def pixel_metrics(
    maps: Sequence[NDArray[Any]], masks: Sequence[NDArray[np.bool_]], **keys: Any
) -> dict[str, Any]:
    """Return the pixel metrics of maps [H, W] against masks [H, W]; see ``PixelMetrics``."""
    metric = PixelMetrics(**keys)
    for number, (anomaly_map, mask) in enumerate(zip(maps, masks, strict=True)):
        metric.update(anomaly_map, mask, name=f"image {number}")
    return metric.compute()
