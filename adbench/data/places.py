"""Where this program keeps what it can make again, and how much of it."""

from __future__ import annotations

import os
from pathlib import Path

from adbench.errors import UserError

DEFAULT_SIZE = 20.0  # GB of decoded pictures
_SIZE = "ADBENCH_CACHE_SIZE"


def default_cache_folder() -> Path:
    """Return where caches lie: ``ADBENCH_CACHE``, else ``adbench`` below the user's cache."""
    chosen = os.environ.get("ADBENCH_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "adbench"


def cache_limit() -> int:
    """Return how many bytes of decoded pictures are kept: ``ADBENCH_CACHE_SIZE`` in GB, else 20.

    Raises:
        UserError: the variable is no number of at least 0.
    """
    given = os.environ.get(_SIZE) or str(DEFAULT_SIZE)
    try:
        size = float(given)
        if not 0 <= size < 1e9:
            raise ValueError
    except ValueError:
        raise UserError(f"{_SIZE}={given}: a number of gigabytes of at least 0") from None
    return int(size * 1e9)
