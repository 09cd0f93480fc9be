"""The sections of metrics.json: figures of a test set, by defect, kind, light and category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adbench.data.sample import ANOMALOUS, NORMAL, Sample
from adbench.metrics import PixelMetrics, SproMetrics, image_metrics
from adbench.metrics.ad2 import FixedThresholdF1
from adbench.runs.summary import mean_metrics

_IMAGE = ("auroc", "ap", "f1max")


def pixel_group(sample: Sample) -> str:
    """Return the group that a picture's pixels are counted in: every subset is made of groups."""
    return "\n".join((sample.category, sample.defect, sample.group or ""))


class Sections:
    """Computes what metrics.json says about scored pictures.

    Args:
        samples, scores, labels: [n], in one order.
        pixel: fed with every picture's map in the group ``pixel_group``.
        spro: by category, where annotated channels were found.
        fixed: F1 at a threshold fixed beforehand; None without one.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        scores: NDArray[np.float64],
        labels: NDArray[np.int64],
        pixel: PixelMetrics,
        spro: Mapping[str, SproMetrics],
        fixed: FixedThresholdF1 | None,
    ) -> None:
        self.samples, self.scores, self.labels = samples, scores, labels
        self.pixel, self.spro, self.fixed = pixel, spro, fixed

    def all(self) -> dict[str, Any]:
        """Return the sections; of several categories the mean is the headline.

        ``pooled`` then holds the figures of all pictures in one pot, whose scores need not be
        comparable, and ``by_category`` those of each category against its own normals.
        """
        names = sorted({sample.category for sample in self.samples})
        own = np.array([sample.category for sample in self.samples])
        every = np.ones(len(self.samples), dtype=bool)
        if len(names) < 2:
            return {**self._of(every, *names[:1]), **self._whole()}
        parts = {name: self._of(own == name, name) for name in names}
        mean = mean_metrics(list(parts.values()))
        left_out = mean.pop("left_out")
        why = {key: f"{n} of {len(names)} categories have none" for key, n in left_out.items()}
        pooled = self._subset(every)
        return {
            **mean,
            "pooled": {key: pooled[key] for key in ("image", "pixel")},
            "by_category": parts,
            "by_defect": {
                f"{name}/{defect}": figures
                for name, part in parts.items()
                for defect, figures in part["by_defect"].items()
            },
            **self._whole(),
            "why": {"image": f"mean over {len(names)} categories", **why},
        }

    def _of(self, rows: NDArray[np.bool_], category: str = "") -> dict[str, Any]:
        """Return what is told of one category's pictures."""
        known = rows & (self.labels >= 0)
        image = image_metrics(self.scores[known], self.labels[known])
        pixel = self.pixel.compute(groups=self._groups(rows))
        why = {f"image.{k}": v for k, v in image.pop("why", {}).items()}
        why |= {f"pixel.{k}": v for k, v in pixel.pop("why", {}).items()}
        found: dict[str, Any] = {"image": image, "pixel": pixel}
        if category in self.spro:
            found["spro"] = self.spro[category].compute()
        kinds = self._by_kind(rows)
        if kinds:
            found["by_kind"] = kinds
        found["by_defect"] = self._by_defect(rows)
        groups = self._by_group(rows)
        if groups:
            found["by_group"] = groups
        return {**found, "why": why}

    def _whole(self) -> dict[str, Any]:
        """Return what is counted over all pictures, whatever their category."""
        found: dict[str, Any] = {"counts": self._counts()}
        if self.fixed is not None:
            found["fixed"] = {"threshold": self.fixed.threshold, **self.fixed.compute()}
        return found

    def _counts(self) -> dict[str, int]:
        bare = [s for s in self.samples if s.label == ANOMALOUS and not s.masks]
        return {
            "good": int((self.labels == NORMAL).sum()),
            "defective": int((self.labels == ANOMALOUS).sum()),
            "unlabelled": int((self.labels < 0).sum()),
            "without_mask": len(bare),
        }

    def _groups(self, rows: NDArray[np.bool_]) -> set[str]:
        return {pixel_group(self.samples[int(i)]) for i in np.flatnonzero(rows)}

    def _subset(self, rows: NDArray[np.bool_]) -> dict[str, Any]:
        """Return image and pixel figures of the chosen pictures."""
        known = rows & (self.labels >= 0)
        image = image_metrics(self.scores[known], self.labels[known])
        pixel = self.pixel.compute(groups=self._groups(rows))
        return {
            "images": int((known & (self.labels == ANOMALOUS)).sum()),
            "image": {key: image[key] for key in _IMAGE},
            "pixel": {key: value for key, value in pixel.items() if key not in ("why", "bounds")},
        }

    def _by_defect(self, rows: NDArray[np.bool_]) -> dict[str, Any]:
        """Return figures of each defect against all normals."""
        normal = rows & (self.labels == NORMAL)
        defects = np.array([sample.defect for sample in self.samples])
        bad = rows & (self.labels == ANOMALOUS)
        return {
            name: self._subset(normal | (bad & (defects == name)))
            for name in sorted(set(defects[bad].tolist()))
        }

    def _by_kind(self, rows: NDArray[np.bool_]) -> dict[str, Any]:
        """Return figures of logical and of structural defects, each against all normals."""
        normal = rows & (self.labels == NORMAL)
        kinds = np.array([sample.kind or "" for sample in self.samples])
        found: dict[str, Any] = {
            kind: self._subset(normal | (rows & (kinds == kind)))
            for kind in sorted(set(kinds[rows].tolist()) - {""})
        }
        both = [each["image"]["auroc"] for each in found.values()]
        if len(both) == 2 and None not in both:
            found["mean"] = {"image": {"auroc": sum(both) / 2}}
        return found

    def _by_group(self, rows: NDArray[np.bool_]) -> dict[str, Any]:
        """Return figures under each light, or in each subset, among themselves."""
        groups = np.array([sample.group or "" for sample in self.samples])
        found = {}
        for name in sorted(set(groups[rows].tolist()) - {""}):
            chosen = rows & (groups == name) & (self.labels >= 0)
            if chosen.any():
                figures = self._subset(chosen)
                found[name] = {**figures["image"], "pixel": figures["pixel"]}
                if self.fixed is not None:
                    found[name]["fixed"] = self.fixed.compute(name)
        return found
