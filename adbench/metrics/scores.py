"""Scores of one group of images: defect pixels kept, normal pixels in memory or in a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adbench.metrics.curves import Counts, grouped


class GroupScores:
    """Pixel scores of one group (good, a defect type, a light).

    Normal pixels are float32 arrays in memory, or appended to a spool file after ``spill``.
    """

    def __init__(self) -> None:
        self.normals: list[NDArray[np.float32]] = []
        self.defects: list[NDArray[np.float32]] = []
        self.weights: list[NDArray[np.float64]] = []
        self.regions = 0.0
        self.spooled: list[int] = []
        self._spool: Path | None = None

    def add(
        self,
        normal: NDArray[np.float32],
        defect: NDArray[np.float32],
        weight: NDArray[np.float64],
        regions: float,
    ) -> None:
        """Add one image's pixels."""
        if self._spool is None:
            self.normals.append(normal)
        else:
            self._append(normal)
        if len(defect):
            self.defects.append(defect)
            self.weights.append(weight)
        self.regions += regions

    def merge(self, other: GroupScores) -> None:
        """Take the other group's pixels in; the counts do not depend on the order."""
        for normal in other.chunks():
            if self._spool is None:
                self.normals.append(np.array(normal))
            else:
                self._append(normal)
        self.defects += other.defects
        self.weights += other.weights
        self.regions += other.regions

    def __getstate__(self) -> dict[str, Any]:
        # A spool file belongs to its process: what travels carries the pixels themselves.
        return {
            **self.__dict__,
            "normals": [np.array(chunk) for chunk in self.chunks()],
            "spooled": [],
            "_spool": None,
        }

    @property
    def bytes(self) -> int:
        """Memory taken by normal pixels."""
        return sum(normal.nbytes for normal in self.normals)

    def spill(self, folder: Path) -> None:
        """Move normal pixels into a spool file; later images are appended to it."""
        if self._spool is None:
            handle, path = tempfile.mkstemp(dir=folder, suffix=".f32")
            os.close(handle)
            self._spool = Path(path)
        for normal in self.normals:
            self._append(normal)
        self.normals = []

    def _append(self, normal: NDArray[np.float32]) -> None:
        assert self._spool is not None
        with open(self._spool, "ab") as out:
            normal.tofile(out)
        self.spooled.append(len(normal))

    def chunks(self) -> Iterator[NDArray[np.float32]]:
        """Yield normal pixels image by image (or in one sorted array after ``sort``)."""
        yield from self.normals
        if self._spool is not None and any(self.spooled):
            mapped = np.memmap(self._spool, dtype=np.float32, mode="r")
            start = 0
            for length in self.spooled:
                yield mapped[start : start + length]
                start += length

    def sorted_normals(self) -> NDArray[np.float32]:
        """Return all normal pixels as one sorted array, sorted once."""
        if len(self.normals) != 1 or not _is_sorted(self.normals[0]):
            joined = np.concatenate(self.normals) if self.normals else np.zeros(0, np.float32)
            joined.sort()
            self.normals = [joined]
        return self.normals[0]

    def defect_scores(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return scores and weights of defect pixels."""
        if not self.defects:
            return np.zeros(0, np.float32), np.zeros(0)
        return np.concatenate(self.defects), np.concatenate(self.weights)


def _is_sorted(values: NDArray[Any]) -> bool:
    return bool((values[1:] >= values[:-1]).all())


def streamed_counts(
    positive: NDArray[np.float32],
    weight: NDArray[np.float64],
    chunks: Iterator[NDArray[np.float32]],
    regions: float,
) -> Counts:
    """Return the exact counts in memory of the order of the defect pixels.

    Each chunk's normals are dropped between the sorted distinct defect scores.
    """
    value, count, sums = grouped(positive, weight)
    places = len(value)
    between = np.zeros(places + 1, dtype=np.int64)
    equal = np.zeros(places + 1, dtype=np.int64)
    total = 0
    for chunk in chunks:
        ordered = np.sort(chunk)
        place = np.searchsorted(value, ordered, side="left")
        same = np.zeros(len(ordered), dtype=bool)
        inside = place < places
        same[inside] = value[place[inside]] == ordered[inside]
        equal += np.bincount(place[same], minlength=places + 1)
        between += np.bincount(place[~same], minlength=places + 1)
        total += len(ordered)
    beyond = np.cumsum((between + equal)[::-1])[::-1]
    return Counts(value, count, sums, beyond[1:], equal[:places], total, regions)
