"""Forms and sizes of masks: geometric enhancement (Eq. 5), scale adaptation (Eq. 6), warps."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.methods.gaa.units import Mask, Picture

_TRIES, _THIN, _KERNEL = 5, 4.0, 5
_AREAS = (0.5, 2.0)  # of an enhanced mask, in shares of its own
_EPSILON = (0.005, 0.02)  # of the polygon, in shares of the outline's length
_MARGIN = 12  # pixels around a component that are warped with it


class Similarity(NamedTuple):
    """Scale, turn in degrees, mirrored or not, about a component's centre."""

    scale: float
    angle: float
    flip: bool


def scale_factor(area: float, mean_area: float, alpha: float) -> float:
    """Return the factor of the similarity that Eq. 6 means: alpha sqrt(r) + (1 - alpha) cbrt(r).

    r is the mean area of the cluster over the mask's. As printed the equation multiplies values,
    which changes nothing once the mask is made binary again; the new area, s^2 times the old,
    lies between the mask's own and the mean.
    """
    ratio = mean_area / area
    return alpha * math.sqrt(ratio) + (1 - alpha) * ratio ** (1 / 3)


def enhanced(mask: Mask, rng: np.random.Generator) -> Mask:
    """Return a mask of another outline (Eq. 5): closed, as a polygon, its corners moved.

    Accepted where it has as many pieces and half to twice the area; else the closed mask.
    Components thinner than four pixels would break: they keep their outline.
    """
    padded = np.pad(mask.astype(np.uint8), _KERNEL)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_KERNEL, _KERNEL))
    closed = np.asarray(cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel), dtype=np.uint8)
    width = np.asarray(cv2.distanceTransform(closed, cv2.DIST_L2, 5), dtype=np.float32)
    area, inner = int(closed.sum()), slice(_KERNEL, -_KERNEL)
    plain = np.asarray(closed[inner, inner] > 0)
    if 2 * float(width.max()) < _THIN:
        return mask
    pieces = cv2.connectedComponents(closed)[0]
    for _ in range(_TRIES):
        drawn = _polygons(closed, width, rng)
        same = cv2.connectedComponents(drawn)[0] == pieces
        if same and _AREAS[0] * area <= int(drawn.sum()) <= _AREAS[1] * area:
            return np.asarray(drawn[inner, inner] > 0)
    return plain


def _polygons(closed: Picture, width: NDArray[np.float32], rng: np.random.Generator) -> Picture:
    contours, tree = cv2.findContours(closed, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    drawn = np.zeros_like(closed)
    sigma = 0.03 * math.sqrt(float(closed.sum()))
    order = sorted(range(len(contours)), key=lambda i: bool(tree[0][i][3] >= 0))  # holes last
    for i in order:
        contour = contours[i]
        epsilon = rng.uniform(*_EPSILON) * cv2.arcLength(contour, True)
        points = cv2.approxPolyDP(contour, epsilon, True).reshape(-1, 2)
        if len(points) < 3:
            points = contour.reshape(-1, 2)
        local = np.array([_local_width(width, x, y) for x, y in points])
        moved = (rng.standard_normal(points.shape) * sigma).clip(-2 * sigma, 2 * sigma)
        limit = np.maximum(local / 4, 0.5)[:, None]
        polygon = np.rint(points + moved.clip(-limit, limit)).astype(np.int32)
        cv2.fillPoly(drawn, [polygon], int(tree[0][i][3] < 0))
    return drawn


def _local_width(width: NDArray[np.float32], x: int, y: int) -> float:
    around = width[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5]
    return 2 * float(around.max(initial=0))


def warped(
    mask: Mask, how: Similarity, patch: Picture | None = None
) -> tuple[Mask, NDArray[np.float32] | None]:
    """Return a mask, cut to its box and a margin, and the pixels of a patch, both warped.

    One similarity serves both, so that they stay aligned; the mask is bilinear and cut at a half.

    Args:
        mask: [h, w], a component within its margin.
        patch: [h, w, 3] uint8 at the same place.

    Returns:
        Mask [h', w'] and pixels [h', w', 3] float32 in 0..255, None without a patch.
    """
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    centre = (float(columns.mean()), float(rows.mean()))
    matrix = cv2.getRotationMatrix2D(centre, how.angle, how.scale)
    if how.flip:
        mirror = np.array([[-1, 0, 2 * centre[0]], [0, 1, 0], [0, 0, 1]])
        matrix = matrix @ mirror
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]).T
    moved = matrix @ corners
    low, high = np.floor(moved.min(1)), np.ceil(moved.max(1))
    matrix[:, 2] -= low
    size = (max(int(high[0] - low[0]), 1), max(int(high[1] - low[1]), 1))
    soft = cv2.warpAffine(mask.astype(np.float32), matrix, size, flags=cv2.INTER_LINEAR)
    found = np.asarray(soft >= 0.5)
    if not found.any():
        found = np.asarray(soft >= soft.max())
    pixels: NDArray[np.float32] | None = None
    if patch is not None:
        moved_patch = cv2.warpAffine(
            patch.astype(np.float32),
            matrix,
            size,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        pixels = np.asarray(moved_patch, dtype=np.float32)
    ys, xs = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    top, bottom = max(ys[0] - _MARGIN, 0), ys[-1] + 1 + _MARGIN
    left, right = max(xs[0] - _MARGIN, 0), xs[-1] + 1 + _MARGIN
    cut = pixels[top:bottom, left:right] if pixels is not None else None
    return found[top:bottom, left:right], cut


def around(box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[slice, slice]:
    """Return rows and columns of a box and its margin, inside the picture."""
    top, left, height, width = box
    rows = slice(max(top - _MARGIN, 0), min(top + height + _MARGIN, size[0]))
    return rows, slice(max(left - _MARGIN, 0), min(left + width + _MARGIN, size[1]))


def principal_angle(mask: Mask) -> float:
    """Return the direction of a mask's long axis in degrees, -90..90, x to the right, y down."""
    y, x = np.nonzero(mask)
    if len(y) < 2:
        return 0.0
    spread = np.cov(np.stack([x, y]).astype(np.float64))
    _, vectors = np.linalg.eigh(spread)
    dx, dy = vectors[:, -1]
    angle = math.degrees(math.atan2(float(dy), float(dx)))
    return (angle + 90) % 180 - 90
