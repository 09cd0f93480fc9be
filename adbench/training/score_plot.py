"""Histograms of image scores, normal above anomalous, with the operating threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_BINS = 64
_BAR, _HEIGHT = 10, 96  # pixels: width of a bin, height of a row
_LEFT, _TOP, _GAP = 16, 22, 20
_INK, _RULE = (40, 40, 40), (200, 60, 50)
_COLOURS = ((120, 170, 220), (70, 120, 190), (220, 120, 70), (150, 150, 150))


def score_histograms(
    groups: Mapping[str, NDArray[np.float64]], threshold: float | None
) -> NDArray[np.uint8]:
    """Return a picture, uint8 [H, W, 3] RGB: one histogram a group, all on one axis.

    Args:
        groups: name -> scores [n]; empty groups are left out. Every row has its own height scale.
        threshold: drawn through all rows; None: not drawn.

    Raises:
        ValueError: all groups are empty.
    """
    shown = {name: scores for name, scores in groups.items() if len(scores)}
    marks = [] if threshold is None else [np.array([threshold])]
    every = np.concatenate([*shown.values(), *marks])
    low, high = float(every.min()), float(every.max())
    high = high if high > low else low + max(abs(low), 1.0) * 1e-6
    picture = np.full(
        (len(shown) * (_HEIGHT + _TOP) + _GAP, _BINS * _BAR + 2 * _LEFT, 3), 255, dtype=np.uint8
    )
    for row, (name, scores) in enumerate(shown.items()):
        counts, _ = np.histogram(scores, _BINS, (low, high))
        base = (row + 1) * (_HEIGHT + _TOP)
        _bars(picture, counts, base, _COLOURS[row % len(_COLOURS)])
        _text(picture, f"{name} ({len(scores)})", (_LEFT, base - _HEIGHT - 6))
    bottom = picture.shape[0] - 6
    if threshold is not None:
        x = _LEFT + round((threshold - low) / (high - low) * _BINS * _BAR)
        cv2.line(picture, (x, _TOP), (x, bottom - 14), _RULE, 1)
        # Between the axis' ends: beside the line it may cover a row's name.
        _text(picture, f"threshold {threshold:.4g}", (picture.shape[1] // 2 - 60, bottom), _RULE)
    _text(picture, f"{low:.4g}", (_LEFT, bottom))
    _text(picture, f"{high:.4g}", (picture.shape[1] - _LEFT - 60, bottom))
    return picture


def _bars(
    picture: NDArray[np.uint8], counts: NDArray[Any], base: int, colour: tuple[int, int, int]
) -> None:
    tallest = max(int(counts.max()), 1)
    for position, count in enumerate(counts.tolist()):
        if count:
            x = _LEFT + position * _BAR
            top = base - max(round(count / tallest * (_HEIGHT - 4)), 1)
            cv2.rectangle(picture, (x, top), (x + _BAR - 2, base), colour, cv2.FILLED)
    cv2.line(picture, (_LEFT, base), (_LEFT + _BINS * _BAR, base), _INK, 1)


def _text(
    picture: NDArray[np.uint8],
    text: str,
    place: tuple[int, int],
    colour: tuple[int, int, int] = _INK,
) -> None:
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
