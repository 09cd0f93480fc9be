"""Pictures without labels, in folders of any structure: to be scored, not to be learnt from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from adbench.data.files import check_names
from adbench.data.images import images_in
from adbench.data.layouts.base import check_category, check_name, ordered
from adbench.data.sample import UNKNOWN, Sample
from adbench.errors import UserError


class PicturesLayout:
    """Every picture below the root is a test sample of unknown label.

    Folders that begin with a dot are left out; a folder reached twice by symbolic links is read
    once.

    Args:
        name: the category; None for the root folder's name.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = None if name is None else check_name(name, "dataset.options.name")

    def categories(self, root: Path) -> list[str]:
        return [self.name or check_name(root.name or "own", "dataset.options.name=null")]

    def read(self, root: Path, category: str) -> list[Sample]:
        check_category(category, self.categories(root), root)
        samples = [
            Sample(image, UNKNOWN, category, "unknown", "test", root=root)
            for folder in _folders(root)
            for image in images_in(folder)
        ]
        if not samples:
            raise UserError(f"no picture in {root} or below it (dataset.root)")
        return ordered(samples)


def _folders(root: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    for folder, names, _ in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            names.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        names[:] = sorted(name for name in names if not name.startswith("."))
        check_names(names, Path(folder))
        yield Path(folder)
