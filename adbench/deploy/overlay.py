"""A photograph with heat where it is anomalous, on one colour scale anchored to the threshold."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.deploy.inspector import Inspection, Inspector
from adbench.deploy.reading import Picture, shrunk
from adbench.runs.files import write_beside
from adbench.runs.pictures import write_png
from adbench.training.heatmaps import overlaid

_COLOURS = {"ok": (40, 160, 60), "ng": (210, 40, 40)}
_BAND = 6  # pixels of the frame that says the verdict


def overlay(inspector: Inspector, picture: Picture, found: Inspection) -> NDArray[np.uint8]:
    """Return uint8 [H, W, 3] RGB, at most 1024 px long: heat above the pixel threshold.

    The frame is green for ok, red for ng; boxes are the regions'.
    """
    assert picture.view is not None
    assert found.anomaly_map is not None
    view = shrunk(picture.view)
    height, width = view.shape[:2]
    framed = inspector.reading.in_frame(found.anomaly_map, (height, width))
    low, high = inspector.heat
    drawn = overlaid(view, framed, low, high)
    scale = height / picture.size[0], width / picture.size[1]
    for region in found.regions if found.verdict == "ng" else ():
        left, top, wide, tall = region.box
        corner = round(left * scale[1]), round(top * scale[0])
        other = round((left + wide) * scale[1]), round((top + tall) * scale[0])
        cv2.rectangle(drawn, corner, other, (255, 255, 255), 1)
    border = cv2.copyMakeBorder(
        drawn, _BAND, _BAND, _BAND, _BAND, cv2.BORDER_CONSTANT, value=_COLOURS[found.verdict]
    )
    return np.asarray(border, dtype=np.uint8)


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """Return uint8 RGB as PNG."""
    done, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError("an overlay cannot be encoded")
    return encoded.tobytes()


def write_overlay(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an overlay as PNG in one rename."""
    write_png(path, image)


def write_map(path: Path, values: NDArray[np.float32]) -> None:
    """Write a map [H, W] as a TIFF of 32-bit floating point in one rename."""
    done, encoded = cv2.imencode(".tiff", values)
    if not done:
        raise OSError(5, "cannot encode a map", os.fspath(path))
    with write_beside(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
