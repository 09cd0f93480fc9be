"""A folder that one process at a time writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from adbench.errors import UserError
from adbench.runs.folder import locked

LOCK = ".lock"


@contextlib.contextmanager
def written_alone(folder: Path, key: str) -> Iterator[None]:
    """Hold ``folder`` against other processes; remove what killed ones left half written.

    Args:
        folder: made where it is missing.
        key: the key of the command line that names it, for messages.

    Raises:
        UserError: another process writes it, or it cannot be a folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{key}={folder} is a file; a folder is expected")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except UserError as error:
            why = str(error).partition(";")[0]
            raise UserError(f"{why}; wait for it or set {key}= to another folder") from error
        yield


def holds_nothing(folder: Path) -> bool:
    """Whether a folder is missing, or empty but for a lock."""
    return not folder.is_dir() or all(item.name == LOCK for item in folder.iterdir())
