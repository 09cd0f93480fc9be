"""What a layout is, and the rules every layout shares: names of normals, paths that stay inside."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from adbench.data.files import check_names, is_harmless_name, shown_path
from adbench.data.sample import Sample
from adbench.errors import UserError, nearest

NORMAL_NAMES = frozenset({"good", "ok", "normal"})
GOOD = "good"  # the defect name of every normal image


@runtime_checkable
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
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    check_names(names, folder)
    return names


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


def check_name(name: str, where: str) -> str:
    """Return ``name`` where it can name one folder.

    Raises:
        UserError: it is empty, has separators, begins with a dot, or cannot be printed.
    """
    if not name.strip() or "/" in name or "\\" in name or name.startswith("."):
        raise UserError(f"{where}: '{shown_path(name)}' cannot name a category or a folder")
    if not is_harmless_name(name) or len(os.fsencode(name)) > 200:
        raise UserError(f"{where}: '{shown_path(name)[:60]}' has control characters or is too long")
    return name


def confined(folder: Path, text: str, where: str, remedy: str = "") -> Path:
    """Return the path that a list file names, where it lies below ``folder``.

    Symbolic links inside the folder are followed as its owner meant them; ``..`` and absolute
    paths that lead out of it are not. A name that exists in another Unicode form only is that file.

    Raises:
        UserError: the path leads out, or cannot be a path.
    """
    if not is_harmless_name(text):
        raise UserError(f"{where}: '{shown_path(text)[:80]}' holds control characters")
    top = os.path.abspath(folder)
    found = os.path.abspath(os.path.join(top, text))
    if os.path.commonpath([top, found]) != top:
        told = f"; {remedy}" if remedy else ""
        raise UserError(
            f"{where}: '{shown_path(text)[:200]}' lies outside of {shown_path(top)}{told}"
        )
    forms = (unicodedata.normalize(form, found) for form in ("NFC", "NFD"))
    return Path(next(filter(os.path.lexists, (found, *forms)), found))
