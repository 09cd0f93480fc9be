"""Writes the demo data set in MVTec's layout, once per set of options."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from adbench.data.demo import box, metal, weave
from adbench.data.demo.flaws import Flawed
from adbench.data.demo.surface import photograph
from adbench.data.files import is_running
from adbench.errors import UserError

FORMAT = 2  # raise when a picture changes: folders made before are then not reused

_Draw = Callable[..., Flawed]
CATEGORIES: dict[str, tuple[_Draw, tuple[str, ...]]] = {
    "box": (box.box, box.DEFECTS),
    "metal": (metal.metal, metal.DEFECTS),
    "weave": (weave.weave, weave.DEFECTS),
}


@dataclass(frozen=True, slots=True)
class _Picture:
    """One picture to make: where it goes and what fixes its content."""

    category: str
    split: str
    defect: str | None
    number: int

    @property
    def image(self) -> str:
        return f"{self.category}/{self.split}/{self.defect or 'good'}/{self.number:03d}.png"

    @property
    def mask(self) -> str:
        return f"{self.category}/ground_truth/{self.defect}/{self.number:03d}_mask.png"


def ensure_demo(
    root: Path,
    *,
    size: int = 256,
    seed: int = 0,
    train: int = 60,
    good: int = 20,
    defective: int = 5,
    difficulty: float = 0.3,
    fillings: int = 1,
    categories: Sequence[str] = ("box", "metal", "weave"),
) -> Path:
    """Return the folder below ``root`` that holds the demo data set, made where it is missing.

    Equal arguments give equal pictures; the folder's name is a hash of them. It is written
    beside and renamed when complete, so that an interrupted process leaves nothing half made.

    Args:
        size: side of the square images in pixels, at least 64.
        seed: fixes every picture.
        train, good: normal images per category, to train on and to test on.
        defective: test images per defect type.
        difficulty: 0 (large, clear defects) .. 1 (small, faint ones).
        fillings: 1 or 2 normal ways to fill the box; with 2, its logical defects mix them.
        categories: of ``box``, ``metal``, ``weave``.

    Raises:
        UserError: a value outside of its range.
    """
    options = {
        "format": FORMAT,
        "size": size,
        "seed": seed,
        "train": train,
        "good": good,
        "defective": defective,
        "difficulty": float(difficulty),
        "fillings": fillings,
        "categories": sorted(categories),
    }
    _check(size, difficulty, train, good, defective)
    if fillings not in (1, 2):
        raise UserError(f"dataset.options.fillings={fillings}: 1 or 2")
    key = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12]
    folder = root / key
    if not folder.is_dir():
        _write(folder, options)
    return folder


def draw(
    category: str,
    defect: str | None,
    *,
    size: int,
    difficulty: float,
    rng: Generator,
    fillings: int = 1,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return one picture uint8 [size, size, 3] RGB and its mask bool [size, size]."""
    more = {"fillings": fillings} if category == "box" else {}
    found = CATEGORIES[category][0](size, rng, defect, difficulty, **more)
    return photograph(found.surface, rng), found.mask


def _check(size: int, difficulty: float, *counts: int) -> None:
    if size < 64:
        raise UserError(f"dataset.options.size={size}: the demo's pictures have at least 64 pixels")
    if not 0 <= difficulty <= 1:
        raise UserError(f"dataset.options.difficulty={difficulty}: a number in 0..1 is expected")
    if min(counts) < 0 or counts[0] == 0:
        raise UserError("dataset.options: train must be positive, good and defective not negative")


def _pictures(options: dict) -> Iterator[_Picture]:
    for category in options["categories"]:
        for number in range(options["train"]):
            yield _Picture(category, "train", None, number)
        for number in range(options["good"]):
            yield _Picture(category, "test", None, number)
        for defect in CATEGORIES[category][1]:
            for number in range(options["defective"]):
                yield _Picture(category, "test", defect, number)


def _write(folder: Path, options: dict) -> None:
    for left in folder.parent.glob(".*.tmp"):  # by processes that were killed
        pid = left.name.split(".")[-2]
        if pid.isdecimal() and not is_running(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for picture in _pictures(options):
            _write_picture(beside, picture, options)
        (beside / "options.json").write_text(json.dumps(options, indent=2) + "\n")
        _rename(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _rename(beside: Path, folder: Path) -> None:
    try:
        beside.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was quicker, with equal pictures
            raise


def _write_picture(beside: Path, picture: _Picture, options: dict) -> None:
    digest = hashlib.sha256(f"{options['seed']} {picture.image}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    image, mask = draw(
        picture.category,
        picture.defect,
        size=options["size"],
        difficulty=options["difficulty"],
        rng=rng,
        fillings=options["fillings"],
    )
    _save(beside / picture.image, np.ascontiguousarray(image[..., ::-1]))
    if picture.defect is not None:
        _save(beside / picture.mask, mask.astype(np.uint8) * 255)


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3]):
        raise UserError(f"cannot write {path}: is the disk full or the folder read-only?")
