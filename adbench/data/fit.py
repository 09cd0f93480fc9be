"""How a picture is brought to the working size, and how a map is brought back."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.config.schema import Fit

Size = tuple[int, int]  # (height, width)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.height, self.width

    def of(self, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return the view of [H, W, ...] inside the box."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


def placement(original: Size, size: Size, fit: Fit) -> tuple[Box, Box]:
    """Return what of the picture is used, and where at the working size it comes to lie.

    ``squash``: all of it everywhere, whatever the shape. ``pad``: all of it, as large as fits with
    its shape kept, in the middle. ``crop``: the largest window of the working size's shape in the
    picture's middle, everywhere.

    Args:
        original: (height, width) of the picture.
        size: (height, width) worked at.
    """
    whole, everywhere = Box(0, 0, *original), Box(0, 0, *size)
    if fit == "pad":
        return whole, _centred(_largest(original, size), size)
    if fit == "crop":
        return _centred(_largest(size, original), original), everywhere
    return whole, everywhere


def _largest(shape: Size, frame: Size) -> Size:
    """Return the largest size of the form of ``shape`` that fits into ``frame``."""
    scale = min(frame[0] / shape[0], frame[1] / shape[1])
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _centred(inner: Size, frame: Size) -> Box:
    return Box((frame[0] - inner[0]) // 2, (frame[1] - inner[1]) // 2, *inner)


def fitted(image: NDArray[np.uint8], size: Size, fit: Fit = "squash") -> NDArray[np.uint8]:
    """Return an image [H, W, 3] uint8 at ``size``.

    Shrinking averages over the covered area (no aliasing), growing is bilinear; what ``pad`` adds
    repeats the picture's border, so that no edge appears where there is none.
    """
    source, target = placement(image.shape[:2], size, fit)
    inside = _resized(np.asarray(source.of(image)), target.size)
    if target.size == size:
        return inside
    return np.asarray(cv2.copyMakeBorder(inside, *_margins(target, size), cv2.BORDER_REPLICATE))


def _resized(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    height, width = size
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    shrink = image.shape[0] >= height and image.shape[1] >= width
    method = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def _margins(box: Box, size: Size) -> tuple[int, int, int, int]:
    """Return rows above, rows below, columns left and right of the box."""
    return (
        box.top,
        size[0] - box.top - box.height,
        box.left,
        size[1] - box.left - box.width,
    )


def fitted_mask(mask: NDArray[np.bool_], size: Size, fit: Fit = "squash") -> NDArray[np.bool_]:
    """Return a mask [H, W] bool at ``size`` by nearest neighbour; what ``pad`` adds is normal."""
    source, target = placement(mask.shape, size, fit)
    found = np.zeros(size, dtype=np.bool_)
    target.of(found)[...] = _interpolated(np.asarray(source.of(mask)), target.size, "nearest") > 0
    return found


def unfitted(
    working: NDArray[np.float32], original: Size, fit: Fit = "squash"
) -> NDArray[np.float32]:
    """Return a map [h, w] at the working size in its picture's own frame [H, W], bilinearly.

    What ``pad`` added is cut off. What ``crop`` left out was not looked at and gets the map's
    smallest value, so that nothing is found there.
    """
    source, target = placement(original, working.shape, fit)
    inside = np.asarray(target.of(working))
    if source.size != inside.shape:
        inside = _interpolated(inside, source.size, "bilinear")
    if source.size == original:
        return inside
    found = np.full(original, working.min(), dtype=np.float32)
    source.of(found)[...] = inside
    return found


def _interpolated(values: NDArray[np.generic], size: Size, mode: str) -> NDArray[np.float32]:
    import torch  # here, for those who need no maps
    from torch.nn import functional

    tensor = torch.from_numpy(np.ascontiguousarray(values))[None, None].float()
    corners = None if mode == "nearest" else False
    grown = functional.interpolate(tensor, size=size, mode=mode, align_corners=corners)
    return np.asarray(grown[0, 0].numpy(), dtype=np.float32)
