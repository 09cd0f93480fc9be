"""What a layout is, and the two rules every layout shares: names of normals, pairing of masks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from adbench.data.images import images_in
from adbench.data.sample import Sample
from adbench.errors import UserError, nearest

NORMAL_NAMES = frozenset({"good", "ok", "normal"})
GOOD = "good"  # the defect name of every normal image


class Layout(Protocol):
    """How one kind of data set lies on disk; constructors take the layout's options."""

    def categories(self, root: Path) -> list[str]:
        """Return the categories found below ``root``, sorted.

        Raises:
            UserError: nothing below ``root`` has this layout.
        """

    def read(self, root: Path, category: str) -> list[Sample]:
        """Return all samples of ``category``, sorted by path relative to ``root``.

        Raises:
            UserError: no such category, no image in it, or ambiguous masks.
        """


def is_normal_name(name: str) -> bool:
    """Whether a folder or label of this name holds normal images."""
    return name.lower() in NORMAL_NAMES


def subfolders(folder: Path) -> list[str]:
    """Return the names of folders in ``folder`` but dot folders, sorted."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def ordered(samples: Iterable[Sample]) -> list[Sample]:
    """Return samples by relative path: the order every reader promises."""
    return sorted(samples, key=lambda sample: sample.relative)


def check_category(category: str, known: Sequence[str], root: Path) -> None:
    """Raise UserError with the nearest name where ``category`` is not known."""
    if category not in known:
        found = ", ".join(known) or "nothing"
        raise UserError(
            f"no category '{category}' in {root}{nearest(category, known)} (found: {found})"
        )


def masks_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Return the mask files of ``folder`` by the image stem they name (``s`` or ``s_mask``)."""
    found: dict[str, list[Path]] = {}
    for path in images_in(folder):
        for stem in {path.stem, path.stem.removesuffix("_mask")}:
            found.setdefault(stem, []).append(path)
    return found


def paired_mask(image: Path, masks: Mapping[str, list[Path]]) -> tuple[Path, ...]:
    """Return the mask of ``image`` by stem, or () where there is none.

    Raises:
        UserError: two files could be its mask.
    """
    candidates = masks.get(image.stem, [])
    if len(candidates) > 1:
        names = " and ".join(str(path) for path in candidates)
        raise UserError(f"two masks for {image}: {names}; keep one of them")
    return tuple(candidates)
