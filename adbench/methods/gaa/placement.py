"""Places for a mask in a region: all positions at once, by correlation (section 5.4)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2

from adbench.methods.gaa.rules import medial_axis
from adbench.methods.gaa.units import Mask

_EDGE_LOOSE, _EDGE_INSIDE, _CENTRE_LOOSE, _CENTRE_REACH = 0.6, 0.25, 0.25, 0.1
_TANGENT = 15  # pixels of outline that a tangent is taken over


class Spot(NamedTuple):
    """Top left corner of a mask's frame in the picture, and how the place was found."""

    top: int
    left: int
    how: str


def overflow(mask: Mask, region: Mask) -> NDArray[np.int64]:
    """Return how many pixels of a mask fall outside a region, for every place of its frame.

    Entry (y, x) [H - h + 1, W - w + 1] is for the frame's corner at (y, x): one correlation by
    FFT, exact after rounding.
    """
    h, w = mask.shape
    height, width = region.shape
    if h > height or w > width:
        return np.zeros((0, 0), dtype=np.int64)
    shape = (next_fast_len(height, True), next_fast_len(width, True))
    spectrum = _spectrum(region.tobytes(), region.shape, shape)
    kernel = rfft2(mask.astype(np.float64), shape)
    inside = irfft2(spectrum * kernel.conj(), shape)[: height - h + 1, : width - w + 1]
    return np.asarray(int(mask.sum()) - np.rint(inside).astype(np.int64))


@lru_cache(maxsize=64)
def _spectrum(
    pixels: bytes, shape: tuple[int, ...], padded: tuple[int, int]
) -> NDArray[np.complex128]:
    region = np.frombuffer(pixels, dtype=np.bool_).reshape(shape)
    return np.asarray(rfft2(region.astype(np.float64), padded))


def inside(mask: Mask, region: Mask, rng: np.random.Generator) -> Spot | None:
    """Return a uniform place among those where the mask lies wholly in the region."""
    places = np.flatnonzero(overflow(mask, region).ravel() == 0)
    if not len(places):
        return None
    y, x = divmod(int(rng.choice(places)), region.shape[1] - mask.shape[1] + 1)
    return Spot(y, x, "inside")


def centred(mask: Mask, region: Mask, rng: np.random.Generator) -> Spot | None:
    """Return a place with the mask's centre near the region's medial axis."""
    out = overflow(mask, region)
    if not out.size:
        return None
    y, x = (float(v.mean()) for v in np.nonzero(mask))
    reach = max(_CENTRE_REACH * float(np.sqrt(region.sum())), 1.0)
    axis = ~medial_axis(region)
    away = cv2.distanceTransform(axis.astype(np.uint8), cv2.DIST_L2, 5)
    rows = np.arange(out.shape[0]) + round(y)
    columns = np.arange(out.shape[1]) + round(x)
    near = away[np.ix_(rows.clip(max=len(away) - 1), columns.clip(max=away.shape[1] - 1))] <= reach
    allowed = np.flatnonzero((near & (out <= _CENTRE_LOOSE * mask.sum())).ravel())
    if not len(allowed):
        return None
    top, left = divmod(int(rng.choice(allowed)), out.shape[1])
    return Spot(top, left, "centre")


def outline_point(region: Mask, rng: np.random.Generator) -> tuple[int, int, float] | None:
    """Return a random point y, x of the region's outline and the direction there in degrees.

    None where the region has no outline inside the picture.
    """
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    points = [c.reshape(-1, 2) for c in contours]
    height, width = region.shape
    usable = [
        np.flatnonzero(
            (p[:, 0] > 0) & (p[:, 0] < width - 1) & (p[:, 1] > 0) & (p[:, 1] < height - 1)
        )
        for p in points
    ]
    counts = np.array([len(u) for u in usable])
    if not counts.sum():
        return None
    which = int(rng.choice(len(counts), p=counts / counts.sum()))
    at = int(rng.choice(usable[which]))
    contour = points[which]
    near = contour[np.arange(at - _TANGENT, at + _TANGENT + 1) % len(contour)].astype(np.float64)
    _, vectors = np.linalg.eigh(np.cov(near.T) + 1e-9 * np.eye(2))
    dx, dy = vectors[:, -1]
    return int(contour[at, 1]), int(contour[at, 0]), float(np.degrees(np.arctan2(dy, dx)))


def at_edge(
    mask: Mask, region: Mask, point: tuple[int, int], rng: np.random.Generator
) -> Spot | None:
    """Return a place with the mask's centre at an outline's point, part of it inside."""
    y, x = (float(v.mean()) for v in np.nonzero(mask))
    reach = 0.25 * float(np.sqrt(mask.sum()))
    top = round(point[0] - y + rng.uniform(-reach, reach))
    left = round(point[1] - x + rng.uniform(-reach, reach))
    clipped = within(mask, region.shape, top, left)
    if clipped is None:
        return None
    share = float((region[clipped[0]] & mask[clipped[1]]).sum()) / float(mask.sum())
    whole = float(mask[clipped[1]].sum()) == float(mask.sum())
    if not whole or share < max(_EDGE_INSIDE, 1 - _EDGE_LOOSE):
        return None
    return Spot(top, left, "edge")


def within(
    mask: Mask, size: tuple[int, ...], top: int, left: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Return the slices of picture and mask that lie on each other; None where none do."""
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + mask.shape[0], size[0]), min(left + mask.shape[1], size[1])
    if y0 >= y1 or x0 >= x1:
        return None
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
