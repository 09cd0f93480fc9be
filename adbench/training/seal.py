"""Keeps test pictures closed until the test phase begins, and notices who tried."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from adbench.errors import UserError


class Seal:
    """Files that may not be opened while it is closed.

    Python's audit events report every file that Python opens, whatever library asks; OpenCV's
    own reader is asked too. Native code that opens files itself, child processes that were not
    forked, and a method that removes these checks on purpose cannot be seen from here.

    Attributes:
        broken: paths that were asked for while the seal was closed, in order.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._inodes = set(filter(None, map(_inode, files)))
        self._closed = True
        self.broken: list[str] = []

    def __len__(self) -> int:
        return len(self._inodes)

    def check(self, path: Any) -> None:
        """Raise where ``path``, whatever its name, is a sealed file.

        Raises:
            UserError: it is; the attempt is kept in ``broken``.
        """
        if not self._closed or isinstance(path, int) or _inode(path) not in self._inodes:
            return
        self.broken.append(os.fsdecode(path))
        raise UserError(self.verdict())

    def verdict(self) -> str:
        """Return in words what was asked for."""
        return (
            f"{self.broken[0]} belongs to the test set and was opened before the test phase "
            f"({len(self.broken)} times): this is not the honest protocol"
        )

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Allow test files: a look that the configuration asks for, or the test phase."""
        before, self._closed = self._closed, False
        try:
            yield
        finally:
            self._closed = before


_active: list[Seal] = []
_hooked: list[bool] = []


@contextlib.contextmanager
def sealed(files: Iterable[Path]) -> Iterator[Seal]:
    """Seal files for the duration of a training."""
    seal = Seal(files)
    if not _hooked:
        sys.addaudithook(_heard)  # cannot be taken back; it does nothing without a seal
        _hooked.append(True)
    _active.append(seal)
    try:
        with _opencv_asks():
            yield seal
    finally:
        _active.remove(seal)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _active:
        for seal in _active:
            seal.check(arguments[0])


@contextlib.contextmanager
def _opencv_asks() -> Iterator[None]:
    """Let cv2.imread report what it opens: it reads files without Python's knowledge."""
    import cv2

    before = cv2.imread

    def imread(filename: Any, *arguments: Any, **keys: Any) -> Any:
        for seal in _active:
            seal.check(filename)
        return before(filename, *arguments, **keys)

    cv2.imread = imread
    try:
        yield
    finally:
        cv2.imread = before


def _inode(path: Any) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError, TypeError):
        return None
    return status.st_dev, status.st_ino
