"""One picture in, one verdict out: what predict, benchmark and serve have in common."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from adbench.deploy.decision import Rule, Verdict
from adbench.deploy.reading import Picture, Reading
from adbench.deploy.regions import Region, regions_of

SCHEMA = 1


class Engine(Protocol):
    """What computes scores: a detector in torch, or an exported file elsewhere.

    Attributes:
        name: torch, onnxruntime or openvino, for records.
    """

    name: str

    def __call__(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return scores [B] and maps [B, h, w] of images [B, h, w, 3] at the working size."""
        ...


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found on one picture.

    Attributes:
        verdict: ok, ng, or error where nobody can know.
        score: None with an error.
        confidence: 0..1, 0.5 at the threshold; None where no scale is known.
        regions: by falling peak.
        anomaly_map: [h, w] float32 at the working size; None with an error.
        milliseconds: decode and score, the latter a picture's share of its batch.
        error: in words, None without.
    """

    verdict: Verdict
    score: float | None = None
    threshold: float | None = None
    confidence: float | None = None
    regions: list[Region] = field(default_factory=list)
    anomaly_map: NDArray[np.float32] | None = None
    milliseconds: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    def record(self, identity: str, source: str, model: str) -> dict[str, Any]:
        """Return the line of JSON that stands for the picture; the time is now, with zone."""
        return {
            "schema": SCHEMA,
            "id": identity,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "source": source,
            "verdict": self.verdict,
            "score": self.score,
            "threshold": self.threshold,
            "confidence": self.confidence,
            "regions": [region.record() for region in self.regions],
            "map": None,
            "overlay": None,
            "milliseconds": {name: round(ms, 2) for name, ms in self.milliseconds.items()},
            "model": model,
            "error": self.error,
        }


def failed(error: str, milliseconds: dict[str, float] | None = None) -> Inspection:
    """Return the inspection of a picture that could not be judged: an error is a verdict."""
    return Inspection("error", error=error, milliseconds=milliseconds or {})


@dataclass(frozen=True, slots=True)
class Inspector:
    """A detector, how pictures come to it, and how its scores are judged.

    Attributes:
        model: name and hash, as records give it.
        sha256: of the detector's file or of the export.
        heat: (low, high) of overlays' colours: one scale for every picture.
    """

    engine: Engine
    reading: Reading
    rule: Rule
    model: str
    sha256: str

    @property
    def heat(self) -> tuple[float, float]:
        low = self.rule.pixel_threshold
        return low, low + max(abs(low), 1e-6)

    def judged(self, pictures: Sequence[Picture]) -> list[Inspection]:
        """Return the inspections of pictures, scored as one batch."""
        start = time.perf_counter()
        scores, maps = self.engine(np.stack([picture.working for picture in pictures]))
        spent = {"score": 1000 * (time.perf_counter() - start) / len(pictures)}
        return [
            self._judged(float(score), found, picture, spent)
            for score, found, picture in zip(scores, maps, pictures, strict=True)
        ]

    def _judged(
        self, score: float, found: NDArray[np.float32], picture: Picture, spent: dict[str, float]
    ) -> Inspection:
        verdict = self.rule.verdict(score)
        if verdict == "error" or not np.isfinite(found).all():
            return failed(f"the detector gave {score} and a map that is not finite", spent)
        return Inspection(
            verdict,
            score,
            self.rule.threshold,
            self.rule.confidence(score),
            regions_of(found, self.rule.pixel_threshold, self.reading, picture.size),
            found,
            spent,
        )
