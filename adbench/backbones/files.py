"""Files of weights before they are read: what they are, and their hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

from adbench.errors import UserError, nearest


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def regular_file(path: str | Path, key: str) -> Path:
    """Return the path of a file of weights with ``~`` resolved.

    Only regular files pass: a device or a pipe would be read for ever.

    Args:
        key: dotted name of the key that gave the path, for messages.

    Raises:
        UserError: it is missing, empty, a folder or anything else that is no file.
    """
    found = Path(path).expanduser() if str(path) else Path()
    where = f"{key}={path}"
    if found.is_dir():
        raise UserError(f"{where} is a folder; a file of weights is expected")
    if not found.exists():
        there = found.parent.iterdir() if found.parent.is_dir() else ()
        near = nearest(found.name, [item.name for item in there])
        raise UserError(f"{where} does not exist{near}")
    if not found.is_file():
        raise UserError(f"{where} is no regular file; a file of weights is expected")
    if found.stat().st_size == 0:
        raise UserError(f"{where} is empty; a file of weights is expected")
    return found
