"""The object of a test picture by Otsu's threshold, which the authors multiply maps by."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from adbench.data.batch import pictures

_SIGMA = 6.0


def otsu_side(image: NDArray[np.uint8], side: str) -> NDArray[np.bool_]:
    """Return the ``dark`` or the ``bright`` side of Otsu's threshold on [H, W, 3] uint8 RGB."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    _, bright = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return np.asarray(bright == (1 if side == "bright" else 0))


def widened(foreground: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return a foreground [H, W] dilated by the reach of a Gaussian and smoothed by it, 0..1."""
    reached = gaussian_filter(foreground.astype(np.float32), _SIGMA) > 0
    return np.asarray(gaussian_filter(reached.astype(np.float32), _SIGMA), np.float32)


def object_masks(image: Tensor, side: str) -> Tensor:
    """Return [B, 1, H, W] in 0..1 for images [B, 3, H, W] in 0..1."""
    found = [widened(otsu_side(picture, side)) for picture in pictures(image)]
    return torch.from_numpy(np.stack(found))[:, None].to(image.device)
