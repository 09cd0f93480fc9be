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
_LARGEST, _MEAN = 4, 1.0  # grey values by which small pictures of one photograph may differ


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


def near_duplicates(first: Sequence[Look], second: Sequence[Look]) -> list[tuple[int, int]]:
    """Return positions (i, j) where first[i] and second[j] show the same photograph.

    That is one stored anew, at another size or quality: its small picture differs by at most 4
    grey values anywhere and by at most 1 on average. Two photographs of equal parts differ by
    more, from their noise and from how the parts lie. Flat pictures are left out.
    """
    if not first or not second:
        return []
    small = np.stack([look.small for look in first]).astype(np.int16)
    means = small.mean(axis=(1, 2))
    lively = np.array([not look.is_flat for look in first])
    found = []
    for j, look in enumerate(second):
        near = np.flatnonzero(lively & (np.abs(means - look.small.mean()) <= _MEAN))
        if look.is_flat or not len(near):
            continue
        apart = np.abs(small[near] - look.small.astype(np.int16))
        same = (apart.max(axis=(1, 2)) <= _LARGEST) & (apart.mean(axis=(1, 2)) <= _MEAN)
        found += [(int(i), j) for i in near[same]]
    return found
