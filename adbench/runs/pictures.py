"""Pictures that a run leaves behind: one way to write them, one to lay them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.runs.files import write_beside

Pixels = NDArray[np.uint8]


def write_png(path: Path, pixels: Pixels) -> None:
    """Write [H, W, 3] RGB or [H, W] grey as PNG, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    stored = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    with write_beside(path) as temporary:
        if not cv2.imwrite(str(temporary), stored):
            raise OSError(f"{path} could not be written")


def grid(tiles: Sequence[Pixels], columns: int) -> Pixels:
    """Return equal tiles [h, w, 3] row by row in one picture, its last row filled with white."""
    filled = [*tiles, *[np.full_like(tiles[0], 255)] * (-len(tiles) % columns)]
    rows = [np.hstack(filled[i : i + columns]) for i in range(0, len(filled), columns)]
    return np.asarray(np.vstack(rows), dtype=np.uint8)
