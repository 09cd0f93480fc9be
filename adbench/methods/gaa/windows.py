"""Square windows around defects, at the size at which they are learned and painted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from adbench.data.batch import Batch
from adbench.methods.gaa.masks import Planner
from adbench.methods.gaa.settings import GenerateKeys
from adbench.methods.gaa.units import Mask, Picture, RealDefects, square_around

_WIDER, _SHIFT, _LIGHT = 2.5, 0.15, 0.05


class Window(NamedTuple):
    """Top, left and side of a square."""

    top: int
    left: int
    side: int

    def of(self, picture: Picture) -> Picture:
        rows, columns = self.slices
        return picture[rows, columns]

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)


def window_around(mask: Mask, keys: GenerateKeys) -> Window:
    """Return the window of a mask: 2.5 times its box, at least ``window`` pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (
        int(rows[0]),
        int(columns[0]),
        int(rows[-1] - rows[0]) + 1,
        int(columns[-1] - columns[0]) + 1,
    )
    side = max(keys.window, round(_WIDER * max(box[2:])))
    size = (mask.shape[0], mask.shape[1])
    return Window(*square_around(box, size, side))


def brought(picture: Picture, side: int) -> Picture:
    """Return [side, side, 3]: averaged where it shrinks, cubic where it grows."""
    how = cv2.INTER_AREA if picture.shape[0] > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (side, side), interpolation=how))


def brought_mask(mask: Mask, side: int) -> Mask:
    """Return [side, side] bool, never empty where the mask is not."""
    grown = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    found = grown >= 0.5
    return np.asarray(found if found.any() else grown > 0)


@dataclass(slots=True)
class WindowSet:
    """Windows to learn from.

    Attributes:
        images: [N, 3, S, S] uint8.
        masks: [N, 1, S, S] bool.
        clusters: [N] int64; the number of clusters stands for normal.
    """

    images: Tensor
    masks: Tensor
    clusters: Tensor

    @property
    def train_samples(self) -> list[int]:
        return list(range(len(self.images)))

    def train_images(self, index: Tensor) -> Tensor:
        """Return windows [B, 3, S, S] float32 in 0..1."""
        return self.images[index].float() / 255

    def train_batches(self, batch_size: int = 32):  # type: ignore[no-untyped-def]
        """Yield all windows as batches, as a data module does."""
        for start in range(0, len(self.images), batch_size):
            index = torch.arange(start, min(start + batch_size, len(self.images)))
            names = [""] * len(index)
            yield Batch(self.train_images(index), index * 0, index, names, names, names)


def windows_of(
    real: RealDefects,
    canvases: list[Picture],
    planner: Planner,
    keys: GenerateKeys,
    count: int,
    seed: int,
) -> WindowSet:
    """Return ``count`` windows: half of real defects, turned and shifted, half of canvases.

    A canvas's window lies around a mask that is planned on it, as those to be painted do.
    """
    rng = np.random.default_rng([seed, 0x317D0])
    images, masks, clusters = [], [], []
    for number in range(count):
        if number % 2:
            plan, labels = planner.plan(real.types[number // 2 % len(real.types)], 10**6 + number)
            mask, image = labels == 1, canvases[plan.canvas]
            cluster = real.clusters
        else:
            cluster = number // 2 % real.clusters
            own = real.of_cluster(cluster)
            unit = own[int(rng.integers(len(own)))]
            mask, image = real.mask_of(unit), real.images[unit.picture]
        window = _shifted(window_around(mask, keys), mask, rng)
        image, mask = window.of(image), mask[window.slices]
        image, mask = _turned(image, mask, rng)
        images.append(_lit(brought(image, keys.net), rng))
        masks.append(brought_mask(mask, keys.net))
        clusters.append(cluster)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return WindowSet(pixels, torch.from_numpy(np.stack(masks))[:, None], torch.tensor(clusters))


def _shifted(window: Window, mask: Mask, rng: np.random.Generator) -> Window:
    """Return the window moved a little, as far as it keeps what it shows of the mask."""
    reach = int(_SHIFT * window.side)
    for _ in range(4):
        top = int(window.top + rng.integers(-reach, reach + 1))
        left = int(window.left + rng.integers(-reach, reach + 1))
        top = min(max(top, 0), mask.shape[0] - window.side)
        left = min(max(left, 0), mask.shape[1] - window.side)
        moved = Window(top, left, window.side)
        if mask[moved.slices].sum() == mask[window.slices].sum():
            return moved
    return window


def _turned(image: Picture, mask: Mask, rng: np.random.Generator) -> tuple[Picture, Mask]:
    quarter = int(rng.integers(4))
    image, mask = np.rot90(image, quarter), np.rot90(mask, quarter)
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def _lit(image: Picture, rng: np.random.Generator) -> Picture:
    factor = rng.uniform(1 - _LIGHT, 1 + _LIGHT)
    return np.asarray(np.rint((image * factor).clip(0, 255)), dtype=np.uint8)
