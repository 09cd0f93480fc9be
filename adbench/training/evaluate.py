"""Scores a test set with a finished detector: metrics, predictions, heat maps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from adbench.config.schema import Fit, MetricKeys
from adbench.data.batch import Batch
from adbench.data.datamodule import DataModule
from adbench.data.fit import fitted_mask, unfitted
from adbench.data.images import image_size, read_mask
from adbench.data.layouts.base import GOOD
from adbench.data.sample import ANOMALOUS, NORMAL, Sample
from adbench.methods.base import Detector
from adbench.metrics import PixelMetrics, SproMetrics
from adbench.metrics.ad2 import FixedThresholdF1, PixelMoments
from adbench.training.loco import LocoChannels
from adbench.training.sections import Sections, pixel_group


@dataclass(slots=True)
class Scored:
    """One test image with what the detector said.

    ``anomaly_map`` [h, w] float32 is at the working size.
    """

    sample: Sample
    score: float
    anomaly_map: NDArray[np.float32]


@dataclass(slots=True)
class Evaluation:
    """Results on one test set.

    Attributes:
        metrics: sections image, pixel, spro, by_kind, fixed, by_defect, by_group, counts, why of
            metrics.json.
        scores, labels: [n] in the order of the samples.
        seconds: inference and metrics apart.
        curves: points of the pixels' curves, see ``PixelMetrics.curves``.
    """

    metrics: dict[str, Any]
    samples: list[Sample]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    seconds: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)


@torch.no_grad()
def scored_images(
    detector: Detector, batches: Iterable[Batch], samples: list[Sample], device: torch.device
) -> Iterator[Scored]:
    """Yield every image of the split with its score and map, in order."""
    for batch in batches:
        prediction = detector(batch.image.to(device))
        scores = prediction.score.float().cpu().tolist()
        maps = prediction.anomaly_map.float().cpu().numpy()
        for row, index in enumerate(batch.index.tolist()):
            yield Scored(samples[index], scores[row], maps[row, 0])


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the held-out normal images say: their scores [n], and a threshold for pixels.

    ``source`` names them where they are not simply held out.
    """

    scores: NDArray[np.float64]
    pixel_threshold: float | None
    source: str | None = None


def held_out(
    detector: Detector,
    datamodule: DataModule,
    keys: MetricKeys,
    device: torch.device,
    split: Literal["val", "test"] = "val",
    moments: PixelMoments | None = None,
) -> HeldOut:
    """Score normal images of a split; maps are taken at the size metrics are taken at.

    Args:
        moments: of the pixels of other splits, which these are added to.
    """
    scores: list[float] = []
    moments = PixelMoments() if moments is None else moments
    batches, samples = datamodule.val_batches(), datamodule.val_samples
    if split == "test":
        batches, samples = datamodule.test_batches(), datamodule.test_samples
    for scored in scored_images(detector, batches, samples, device):
        scores.append(scored.score)
        moments.update(_judged_map(scored, keys.resolution, datamodule.fit))
    return HeldOut(np.array(scores, dtype=np.float64), moments.threshold)


def _judged_map(scored: Scored, resolution: str, fit: Fit) -> NDArray[np.float32]:
    if resolution == "working":
        return scored.anomaly_map
    return unfitted(scored.anomaly_map, image_size(scored.sample.image), fit)


def evaluate(
    detector: Detector,
    datamodule: DataModule,
    keys: MetricKeys,
    device: torch.device,
    *,
    pixel_threshold: float | None = None,
    each: Callable[[Scored], None] | None = None,
) -> Evaluation:
    """Score the test set and compute everything metrics.json reports about it.

    Args:
        pixel_threshold: fixed beforehand, for the F1 of pixels and images (section ``fixed``).
        each: called with every scored image, e.g. to draw it.
    """
    start = time.perf_counter()
    pixel = PixelMetrics(
        limits=tuple(keys.limits),
        mode=keys.mode,
        max_memory=keys.max_memory,
        pro_flavour=keys.pro_flavour,
    )
    fixed = None if pixel_threshold is None else FixedThresholdF1(pixel_threshold)
    tally = _Tally(pixel, fixed, keys.resolution, datamodule.fit)
    for scored in scored_images(
        detector, datamodule.test_batches(), datamodule.test_samples, device
    ):
        tally.add(scored)
        if each is not None:
            each(scored)
    total = time.perf_counter() - start
    started = time.perf_counter()
    metrics = tally.sections()
    seconds = {
        "inference": total - tally.seconds,
        "metrics": time.perf_counter() - started + tally.seconds,
    }
    scores, labels = np.array(tally.scores), np.array(tally.labels)
    curves = pixel.curves() if each is not None else {}
    return Evaluation(metrics, tally.samples, scores, labels, seconds, curves)


class _Tally:
    """Feeds one scored image after another into the metrics."""

    def __init__(
        self, pixel: PixelMetrics, fixed: FixedThresholdF1 | None, resolution: str, fit: Fit
    ) -> None:
        self.pixel, self.fixed, self.resolution, self.fit = pixel, fixed, resolution, fit
        self.spro: dict[str, SproMetrics] = {}
        self.samples: list[Sample] = []
        self.scores: list[float] = []
        self.labels: list[int] = []
        self.seconds = 0.0
        self.loco = LocoChannels()
        self.why: dict[str, str] = {}

    def add(self, scored: Scored) -> None:
        start = time.perf_counter()
        sample = scored.sample
        self.samples.append(sample)
        self.scores.append(scored.score)
        self.labels.append(sample.label)
        if sample.label >= 0:
            self._add_map(sample, _judged_map(scored, self.resolution, self.fit))
        self.seconds += time.perf_counter() - start

    def _add_map(self, sample: Sample, full: NDArray[np.float32]) -> None:
        size, group = image_size(sample.image), pixel_group(sample)
        if sample.label == ANOMALOUS and not sample.masks:
            self.pixel.update(full, None, group=group, name=sample.relative)
            return
        mask = (
            np.zeros(size, dtype=bool) if sample.label == NORMAL else read_mask(sample.masks, size)
        )
        if mask.shape != full.shape:
            mask = fitted_mask(mask, full.shape, self.fit)
        self.pixel.update(full, mask, group=group, name=sample.relative)
        if self.fixed is not None:
            self.fixed.update(full, mask, sample.group or "")
        self._add_channels(sample, full)

    def _add_channels(self, sample: Sample, full: NDArray[np.float32]) -> None:
        found = self.loco.of(sample)
        if found is None:
            return
        if full.shape != image_size(sample.image):
            self.why["spro"] = "saturated overlap is defined at the masks' own size: " + (
                "metrics.resolution=original"
            )
            return
        own = self.spro.setdefault(sample.category, SproMetrics())
        own.update(full, found, subset=sample.kind or GOOD, name=sample.relative)

    def sections(self) -> dict[str, Any]:
        scores, labels = np.array(self.scores), np.array(self.labels)
        spro = self.spro if self.loco.found else {}
        found = Sections(self.samples, scores, labels, self.pixel, spro, self.fixed).all()
        return {**found, "why": {**found["why"], **self.loco.why, **self.why}}


def prediction_rows(
    evaluation: Evaluation, threshold: float | None
) -> list[dict[str, str | int | float]]:
    """Return the rows of predictions.csv: path, label, defect, score, decision."""
    rows: list[dict[str, str | int | float]] = []
    for sample, score in zip(evaluation.samples, evaluation.scores.tolist(), strict=True):
        decision = "" if threshold is None else ("anomalous" if score > threshold else "normal")
        rows.append(
            {
                "path": sample.relative,
                "label": sample.label,
                "defect": sample.defect,
                "score": repr(score),
                "decision": decision,
            }
        )
    return rows


def write_predictions(path: Path, rows: list[dict[str, str | int | float]]) -> None:
    """Write predictions.csv in one rename."""
    import csv

    from adbench.runs.files import write_beside

    names = ["path", "label", "defect", "score", "decision"]
    with write_beside(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, names)
        writer.writeheader()
        writer.writerows(rows)
