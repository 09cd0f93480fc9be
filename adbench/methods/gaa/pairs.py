"""Pairs on disk in MVTec's layout, and in memory for what is trained on them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adbench.errors import UserError
from adbench.methods.gaa.units import Mask, Picture, read_png
from adbench.runs.files import write_text
from adbench.runs.pictures import write_png
from adbench.synthesis.writer import MANIFEST

Row = dict[str, Any]


def pair_files(category: str, defect: str, number: int) -> tuple[str, str]:
    """Return the paths of image and mask below a set's folder."""
    stem = f"{number:05d}"
    return (
        f"{category}/test/{defect}/{stem}.png",
        f"{category}/ground_truth/{defect}/{stem}_mask.png",
    )


def write_pair(folder: Path, row: Mapping[str, Any], image: Picture, mask: Mask) -> None:
    """Write one pair, lossless."""
    write_png(folder / str(row["file"]), image)
    write_png(folder / str(row["mask"]), mask.astype(np.uint8) * 255)


def write_rows(folder: Path, rows: Iterable[Mapping[str, Any]], name: str = MANIFEST) -> None:
    """Write a line for each pair."""
    write_text(folder / name, "".join(json.dumps(dict(row)) + "\n" for row in rows))


def read_rows(folder: Path, name: str = MANIFEST) -> list[Row]:
    """Return the lines of a manifest.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / name
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged; repeat its stage: force=STAGE") from error
    if not all(isinstance(row, dict) and "file" in row and "mask" in row for row in found):
        raise UserError(f"{path} is damaged; repeat its stage: force=STAGE")
    return found


def read_pair(folder: Path, row: Mapping[str, Any]) -> tuple[Picture, Mask]:
    """Return image and mask of a line."""
    image = read_png(folder / str(row["file"]))
    return image, read_png(folder / str(row["mask"]), grey=True) > 0


def is_written(folder: Path, row: Mapping[str, Any]) -> bool:
    """Whether image and mask of a line are there and can be read."""
    files = [folder / row["file"], folder / row["mask"]]
    return all(path.is_file() and cv2.imread(str(path)) is not None for path in files)


def linked(source: Path, target: Path) -> None:
    """Give a file a second name; a copy where the file system cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


class PairSet:
    """Pairs in memory, drawn type by type: a random type, then one of its pairs.

    Args:
        images: [H, W, 3] uint8 each.
        masks: [H, W] bool each.
        types: name of each one's defect.
    """

    def __init__(
        self, images: Sequence[Picture], masks: Sequence[Mask], types: Sequence[str]
    ) -> None:
        self.images = np.stack(images)
        self.masks = np.packbits(np.stack(masks), axis=-1)
        self.width = self.images.shape[2]
        self.names = sorted(set(types))
        self.types = np.array([self.names.index(name) for name in types])
        self._own = [np.flatnonzero(self.types == i) for i in range(len(self.names))]

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return ``count`` positions."""
        kinds = rng.integers(len(self.names), size=count)
        return np.array([rng.choice(self._own[kind]) for kind in kinds], dtype=np.int64)

    def tensors(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Return images [B, 3, H, W] in 0..1, masks [B, 1, H, W] bool, types [B]."""
        image = torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2).float() / 255
        unpacked = np.unpackbits(self.masks[rows], axis=-1)[..., : self.width]
        mask = torch.from_numpy(unpacked.astype(bool))[:, None]
        return image.contiguous(), mask, torch.from_numpy(self.types[rows])


def altered(
    image: Tensor, mask: Tensor, rng: np.random.Generator, jitter: float, *, flips: bool
) -> tuple[Tensor, Tensor]:
    """Return images and masks, each mirrored at random and in other light.

    Brightness and contrast change by up to ``jitter``, as factors, over the whole picture.
    """
    images, masks = [], []
    for one, own in zip(image, mask, strict=True):
        if flips:
            axes = [axis for axis in (-1, -2) if rng.random() < 0.5]
            one, own = one.flip(axes), own.flip(axes)
        bright, contrast = (float(v) for v in rng.uniform(1 - jitter, 1 + jitter, 2))
        mean = one.mean()
        images.append((((one - mean) * contrast + mean) * bright).clamp(0, 1))
        masks.append(own)
    return torch.stack(images), torch.stack(masks)
