"""What a picture looks like, in a few bytes: to find flat pictures and pictures of one scene."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.data.images import read_image

SIDE = 64  # of the small picture
FLAT = 1.5  # standard deviation of grey values: a covered lens, an unlit part
_APART = 2.0  # root mean square in grey values by which small pictures of one photograph differ
_ASKED = 256  # pictures that say how far apart two photographs of good parts are


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A picture in short.

    Attributes:
        digest: of its decoded pixels; equal for equal pictures in unequal files.
        small: [64, 64] uint8, its grey values averaged.
        deviation: standard deviation of its grey values, 0..255.
    """

    digest: bytes
    small: NDArray[np.uint8]
    deviation: float

    @property
    def is_flat(self) -> bool:
        """Whether it shows nothing: one grey value but for the camera's noise."""
        return self.deviation <= FLAT


def look_at(path: Path, bits: int | None = None) -> Look:
    """Return what the picture looks like.

    Raises:
        UserError: it cannot be read.
    """
    pixels = read_image(path, bits)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    digest = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).digest()
    return Look(digest, np.asarray(small, dtype=np.uint8), float(grey.std()))


def near_duplicates(good: Sequence[Look], bad: Sequence[Look]) -> list[tuple[int, int]]:
    """Return positions (i, j) where good[i] and bad[j] show the same photograph.

    That is one stored anew, at another size or quality. Their small pictures differ by a root
    mean square of at most 2 grey values, of at most a fifth of the picture's own deviation, and
    of at most half of what lies between a good picture and the good one nearest to it (median
    over them): where a fixed camera sees equal parts, every two photographs are alike. Flat
    pictures are left out. Of several i the nearest.
    """
    first = [i for i, look in enumerate(good) if not look.is_flat]
    second = [j for j, look in enumerate(bad) if not look.is_flat]
    if not first or not second:
        return []
    middle = np.mean([good[i].small for i in first], axis=0)
    goods, bads = (
        _rows([looks[i] for i in those], middle) for looks, those in ((good, first), (bad, second))
    )
    contrasts = np.array([bad[j].small.std() for j in second])
    limits = np.minimum(min(_APART, _usual(goods) / 2), contrasts / 5)
    apart = _distances(goods, bads)
    nearest = apart.argmin(axis=0)
    same = np.flatnonzero(apart.min(axis=0) <= limits)
    return [(first[nearest[j]], second[j]) for j in same.tolist()]


def _rows(looks: Sequence[Look], middle: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return [n, 64 * 64] float32, the middle taken off so that little is lost to rounding."""
    return np.stack([(look.small - middle).ravel() for look in looks]).astype(np.float32)


def _distances(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return root mean squares [n, m] between rows."""
    squares = (first**2).mean(1)[:, None] + (second**2).mean(1)[None]
    return np.sqrt(np.maximum(squares - 2 * (first @ second.T) / first.shape[1], 0))


def _usual(rows: NDArray[np.float32]) -> float:
    """Return the median distance of a row to its nearest other one; infinite for one row."""
    if len(rows) < 2:
        return np.inf
    asked = np.unique(np.linspace(0, len(rows) - 1, _ASKED).round().astype(int))
    apart = _distances(rows[asked], rows)
    apart[np.arange(len(asked)), asked] = np.inf
    return float(np.median(apart.min(axis=1)))
