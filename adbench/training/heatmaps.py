"""Heat maps and overlays of test images, one PNG an image."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_LINE = 18  # pixels of a line of text
_BAR = 26  # pixels of the colour bar


def heat_colours(anomaly_map: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Return uint8 [H, W, 3] RGB of the map on a fixed scale: ``low`` dark, ``high`` bright."""
    span = max(high - low, 1e-12)
    level = np.clip((anomaly_map - low) / span, 0, 1)
    coloured = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def outlined(
    image: NDArray[np.uint8], mask: NDArray[np.bool_] | None, colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Return the image with the mask's outline drawn on it."""
    drawn = image.copy()
    if mask is not None and mask.any():
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, contours, -1, colour, 1)
    return drawn


def overlaid(
    image: NDArray[np.uint8], anomaly_map: NDArray[Any], low: float, high: float
) -> NDArray[np.uint8]:
    """Return the photograph with heat where the map exceeds ``low``, as it is elsewhere.

    Heat fades in over the first quarter of the way from ``low`` to ``high``.
    """
    span = max(high - low, 1e-12)
    alpha = np.clip((anomaly_map - low) / (0.25 * span), 0, 1)[..., None] * 0.65
    heat = heat_colours(anomaly_map, low, high).astype(np.float32)
    return np.asarray((image * (1 - alpha) + heat * alpha).round(), dtype=np.uint8)


def panel(
    image: NDArray[np.uint8],
    maps: dict[str, NDArray[Any]],
    scale: dict[str, tuple[float, float]],
    mask: NDArray[np.bool_] | None,
    title: str,
    threshold: float | None = None,
) -> NDArray[np.uint8]:
    """Return one row of pictures, uint8 RGB: image with true outline, then overlay and map.

    Args:
        image: [H, W, 3] uint8 at the maps' size.
        maps: name -> [H, W]; the first is the anomaly map. Several are named on the picture.
        scale: name -> (low, high) of the colours, the same for all images of a run.
        mask: [H, W] true defect, or None.
        title: text above, broken into as many lines as it takes.
        threshold: of the anomaly map's pixels; below it the photograph shows unchanged, and the
            colour bar marks it.
    """
    pictures = [outlined(image, mask, (0, 230, 0))]
    for number, (name, values) in enumerate(maps.items()):
        low, high = scale[name]
        heat = heat_colours(values, low, high)
        if number == 0:
            start = low if threshold is None else threshold
            pictures.append(overlaid(image, values, start, max(high, start)))
        pictures.append(_captioned(heat, name) if len(maps) > 1 else heat)
        if number == 0:
            pictures.append(_colour_bar(image.shape[0], low, high, threshold))
    gap = np.full((image.shape[0], 4, 3), 255, dtype=np.uint8)
    row = np.concatenate([part for pic in pictures for part in (pic, gap)][:-1], axis=1)
    return np.concatenate([_titled(title, row.shape[1]), row], axis=0)


def _colour_bar(height: int, low: float, high: float, threshold: float | None) -> NDArray[np.uint8]:
    """Return the colours from ``high`` down to ``low``, a white line at the threshold."""
    values = np.linspace(high, low, height)[:, None].repeat(_BAR, axis=1)
    bar = heat_colours(values, low, high)
    if threshold is not None and low <= threshold <= high:
        place = round((high - threshold) / max(high - low, 1e-12) * (height - 1))
        bar[max(place - 1, 0) : place + 1] = 255
    return bar


def _titled(title: str, width: int) -> NDArray[np.uint8]:
    """Return the title's lines on white, none wider than the row."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    lines, line = [], ""
    for character in title:
        wide = cv2.getTextSize(line + character, font, size, 1)[0][0]
        if wide > width - 8 and line:
            lines.append(line)
            line = ""
        line += character
    lines.append(line)
    label = np.full((_LINE * len(lines) + 4, width, 3), 255, dtype=np.uint8)
    for number, text in enumerate(lines):
        place = (4, _LINE * number + 14)
        cv2.putText(label, text, place, font, size, (30, 30, 30), 1, cv2.LINE_AA)
    return label


def _captioned(picture: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    place, font = (5, picture.shape[0] - 7), cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(picture, text, place, font, 0.42, (235, 235, 235), 1, cv2.LINE_AA)
    return picture


def chosen_images(defects: list[str], count: int | str) -> set[int]:
    """Return positions to draw: all, or ``count`` spread evenly over the defect types."""
    if count == "all" or int(count) >= len(defects):
        return set(range(len(defects)))
    by_defect: dict[str, list[int]] = {}
    for position, name in enumerate(defects):
        by_defect.setdefault(name, []).append(position)
    chosen: list[int] = []
    turn = 0
    while len(chosen) < int(count):
        for positions in by_defect.values():
            if turn < len(positions) and len(chosen) < int(count):
                chosen.append(positions[turn])
        turn += 1
    return set(chosen)
