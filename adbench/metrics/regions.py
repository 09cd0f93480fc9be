"""Connected regions of masks, as weights of their pixels."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def region_weights(mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], int]:
    """Return 1 / area of the region of every defect pixel, and the number of regions.

    Regions are 8-connected components. Weights come in row-major order of the mask's True
    pixels, so that each region's weights add up to 1.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros(0), 0
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        inside.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S
    )
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    return 1.0 / areas[labels[inside]], count - 1


def region_labels(mask: NDArray[Any]) -> tuple[int, NDArray[np.int32]]:
    """Return the number of 8-connected regions and the label map (0 outside)."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return count - 1, np.asarray(labels, dtype=np.int32)
