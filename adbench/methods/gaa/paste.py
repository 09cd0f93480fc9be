"""``diffusion=none``: real components on normal pictures, the honest baseline (section 14)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.methods.gaa import placement
from adbench.methods.gaa.features import ring_of
from adbench.methods.gaa.geometry import Similarity, around, warped
from adbench.methods.gaa.masks import Plan
from adbench.methods.gaa.settings import GenerateKeys
from adbench.methods.gaa.units import Mask, Picture, RealDefects

_RING = 5


class Paster:
    """Puts warped real components on canvases.

    Args:
        real: the seen defects.
        keys: blend and feather.
    """

    def __init__(self, real: RealDefects, keys: GenerateKeys) -> None:
        self.real, self.keys = real, keys

    def __call__(self, plan: Plan, canvas: Picture, labels: Picture) -> Picture:
        """Return the canvas [H, W, 3] with the plan's defects at ``labels`` [H, W].

        Outside the mask and its feather it is the canvas, bit for bit.
        """
        image: NDArray[np.float32] = canvas.astype(np.float32)
        for value, part in enumerate(plan.parts, 1):
            mask = labels == value
            if part.unit < 0:
                image = _filled(image, mask)
                continue
            source = self._frame(part.unit, Similarity(part.scale, part.angle, part.flip))
            layer = _laid(source, mask.shape, part.top, part.left, image)
            image = self._blended(image, layer, mask, self._ring_colour(part.unit))
        return np.rint(image.clip(0, 255)).astype(np.uint8)

    def _frame(self, unit: int, how: Similarity) -> NDArray[np.float32]:
        own = self.real.units[unit]
        rows = around(own.box, self.real.components[0].shape)
        mask, image = self.real.mask_of(own)[rows], self.real.images[own.picture][rows]
        pixels = warped(mask, how, image)[1]
        assert pixels is not None
        return pixels

    def _ring_colour(self, unit: int) -> NDArray[np.float64]:
        own = self.real.units[unit]
        defective = self.real.components[own.picture] > 0
        ring = ring_of(self.real.mask_of(own), _RING) & ~defective
        image = self.real.images[own.picture]
        return image[ring].mean(0) if ring.any() else image.reshape(-1, 3).mean(0)

    def _blended(
        self,
        image: NDArray[np.float32],
        layer: NDArray[np.float32],
        mask: Mask,
        source: NDArray[np.float64],
    ) -> NDArray[np.float32]:
        if self.keys.blend == "poisson" and _clear_of_border(mask):
            return _cloned(image, layer, mask)
        ring = ring_of(mask, _RING)
        shift: NDArray[np.float32] = np.zeros(3, dtype=np.float32)
        if ring.any():
            shift = (image[ring].mean(0) - source).astype(np.float32)
        alpha = feathered(mask, self.keys.feather)[..., None]
        found: NDArray[np.float32] = image + alpha * (layer + shift - image)
        return found


def feathered(mask: Mask, width: int) -> NDArray[np.float32]:
    """Return 1 on the mask, falling to 0 at ``width`` + 1 pixels outside it, [H, W]."""
    if width == 0:
        return mask.astype(np.float32)
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray((1 - away / (width + 1)).clip(0, 1), dtype=np.float32)


def _laid(
    source: NDArray[np.float32],
    size: tuple[int, ...],
    top: int,
    left: int,
    image: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return ``image`` with the frame's pixels laid on it."""
    found = image.copy()
    at = placement.within(np.ones(source.shape[:2], dtype=bool), size, top, left)
    if at is not None:
        found[at[0]] = source[at[1]]
    return found


def _filled(image: NDArray[np.float32], mask: Mask) -> NDArray[np.float32]:
    """Return the picture with a region painted over from its neighbourhood (Telea)."""
    pixels = np.rint(image.clip(0, 255)).astype(np.uint8)
    made = cv2.inpaint(pixels, mask.astype(np.uint8), 5, cv2.INPAINT_TELEA).astype(np.float32)
    return np.where(mask[..., None], made, image)


def _clear_of_border(mask: Mask) -> bool:
    return not (mask[:2].any() or mask[-2:].any() or mask[:, :2].any() or mask[:, -2:].any())


def _cloned(
    image: NDArray[np.float32], layer: NDArray[np.float32], mask: Mask
) -> NDArray[np.float32]:
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    rows, columns = np.flatnonzero(grown.any(1)), np.flatnonzero(grown.any(0))
    centre = (int(columns[0] + columns[-1]) // 2, int(rows[0] + rows[-1]) // 2)
    below = np.rint(image.clip(0, 255)).astype(np.uint8)
    above = np.rint(layer.clip(0, 255)).astype(np.uint8)
    made = cv2.seamlessClone(above, below, grown * 255, centre, cv2.NORMAL_CLONE)
    return np.where(grown[..., None] > 0, made.astype(np.float32), image)
