"""Augmented crops of generated pictures and photographs, fixed by (seed, step, row)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from adbench.backbones.distill.generated import generated_picture
from adbench.backbones.distill.photographs import loaded_photographs

Batch = TypeVar("Batch")
CANVAS = 320
_VALIDATION = 1 << 40  # pictures and draws beyond this number are never trained on


class CropSource:
    """Endless batches of crops.

    Args:
        seed: fixes canvases and every crop.
        side: side of a crop, pixels.
        photographs: share of crops taken from photographs, 0..1.
        canvases: generated pictures kept in memory; crops are drawn from them again and again.
        folders: further folders of photographs.
    """

    def __init__(
        self,
        seed: int,
        side: int,
        *,
        photographs: float = 0.5,
        canvases: int = 1500,
        folders: Sequence[str | Path] = (),
    ) -> None:
        self.seed, self.side, self.share = seed, side, photographs
        self.generated = generated_canvases(seed, canvases)
        self.photographs = loaded_photographs(folders, CANVAS) if photographs > 0 else []

    def batch(self, step: int, size: int) -> Tensor:
        """Return batch ``step``: [size, 3, side, side] float32 in 0..1."""
        return stacked(
            [self._crop(np.random.default_rng([self.seed, step, row])) for row in range(size)]
        )

    def validation(self, size: int) -> Tensor:
        """Return crops of generated pictures that no training batch shows."""
        fresh = generated_canvases(self.seed, size, _VALIDATION)
        rng = np.random.default_rng([self.seed, _VALIDATION])
        return stacked([augmented(rng, picture, self.side) for picture in fresh])

    def _crop(self, rng: Generator) -> NDArray[np.uint8]:
        photograph = bool(self.photographs) and rng.random() < self.share
        pictures = self.photographs if photograph else self.generated
        return augmented(rng, pictures[rng.integers(len(pictures))], self.side)

    def batches(self, start: int, stop: int, size: int) -> Iterator[Tensor]:
        """Yield batches ``start`` to ``stop``; see ``made_ahead``."""
        return made_ahead(lambda step: self.batch(step, size), start, stop)


def made_ahead(make: Callable[[int], Batch], start: int, stop: int) -> Iterator[Batch]:
    """Yield ``make(step)`` for each step, the next ones made while one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[Batch]] = []
        for step in range(start, stop):
            while len(waiting) < 3 and step + len(waiting) < stop:
                waiting.append(pool.submit(make, step + len(waiting)))
            yield waiting.pop(0).result()


def generated_canvases(seed: int, count: int, first: int = 0) -> list[NDArray[np.uint8]]:
    """Return ``count`` generated pictures of side ``CANVAS``, from number ``first`` on."""
    return [generated_picture(seed, first + number, CANVAS) for number in range(count)]


def stacked(crops: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Return crops [side, side, 3] uint8 as [B, 3, side, side] float32 in 0..1."""
    together = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    return together.to(torch.float32).div_(255.0).contiguous()


def augmented(
    rng: Generator,
    picture: NDArray[np.uint8],
    side: int,
    zoom: tuple[float, float] = (0.6, 2.2),
) -> NDArray[np.uint8]:
    """Return one crop: ``warped``, then recoloured."""
    return _recoloured(rng, warped(rng, picture, side, zoom))


def warped(
    rng: Generator,
    picture: NDArray[np.uint8],
    side: int,
    zoom: tuple[float, float] = (0.6, 2.2),
) -> NDArray[np.uint8]:
    """Return one crop: scale, turn, flip and shift in one warp.

    Args:
        picture: [H, W, 3].
        side: of the crop, pixels.
        zoom: range of picture pixels covered by a crop pixel, drawn evenly in the logarithm.
    """
    height, width = picture.shape[:2]
    covered = side * math.exp(rng.uniform(math.log(zoom[0]), math.log(zoom[1])))
    covered = min(covered, min(height, width))
    turn = rng.uniform(-180, 180) if rng.random() < 0.5 else 90.0 * rng.integers(4)
    half = covered / 2
    centre = (rng.uniform(half, width - half), rng.uniform(half, height - half))
    warp = cv2.getRotationMatrix2D(centre, float(turn), side / covered)
    warp[:, 2] += np.array([side / 2 - centre[0], side / 2 - centre[1]])
    crop = cv2.warpAffine(
        picture, warp, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.asarray(crop, dtype=np.uint8)


def _recoloured(rng: Generator, crop: NDArray[Any]) -> NDArray[np.uint8]:
    values = crop.astype(np.float32)
    if rng.random() < 0.25:
        values = values.mean(-1, keepdims=True).repeat(3, -1)
    if rng.random() < 0.2:
        values = values[..., rng.permutation(3)]
    if rng.random() < 0.1:
        values = 255 - values
    middle = values.mean()
    gain = math.exp(rng.normal() * 0.35)
    values = (values - middle) * gain + middle + rng.normal() * 30
    values *= 1 + rng.normal(size=3).astype(np.float32) * 0.06
    if rng.random() < 0.2:
        values = cv2.GaussianBlur(values, (0, 0), float(rng.uniform(0.4, 1.5)))
    return np.asarray(np.clip(values, 0, 255), dtype=np.uint8)
