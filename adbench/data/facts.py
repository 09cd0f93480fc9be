"""What was found out about a file, remembered until the file changes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from adbench.data.files import check_regular
from adbench.data.places import default_cache_folder

FILE = "facts-1.sqlite"  # raise the number when a fact changes its meaning
_MOST = 2_000_000  # facts kept; beyond, all are forgotten
_FRESH_NS = 2_000_000_000  # a file as young as that may change again within one tick of its clock
_TABLE = (
    "CREATE TABLE IF NOT EXISTS facts (path BLOB, name TEXT, size INTEGER, mtime INTEGER, "
    "value TEXT, PRIMARY KEY (path, name)) WITHOUT ROWID"
)


def facts_of(
    paths: Sequence[Path],
    name: str,
    find: Callable[[Path], str],
    *,
    lasting: Callable[[str], bool] = lambda _: True,
    threads: int = 2,
) -> list[str]:
    """Return ``find(path)`` for every path, from memory where the file is as it was.

    A file is as it was while its absolute path, size and time of change are; a file changed less
    than two seconds ago is asked again. Processes share the memory, a file below the cache
    folder; where that cannot be written, everything is found again each time.

    Args:
        name: of the fact, e.g. ``sha256``.
        find: finds it out; raises UserError for a file that cannot be read.
        lasting: which values are remembered; for what may change though the file does not.

    Raises:
        UserError: a path is no regular file, or what ``find`` raises; the first path's error.
    """
    keys = {path: _key(path) for path in paths}
    known = _recalled(list(dict.fromkeys(keys.values())), name)
    missing = [path for path, key in keys.items() if key not in known]
    with ThreadPoolExecutor(threads) as pool:
        found = dict(zip(missing, pool.map(find, missing), strict=True))
    _remember({keys[path]: value for path, value in found.items() if lasting(value)}, name)
    return [found[path] if path in found else known[keys[path]] for path in paths]


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_Key = tuple[bytes, int, int]  # path, size, time of change


def _key(path: Path) -> _Key:
    status = check_regular(path)
    return os.fsencode(os.path.abspath(path)), status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _memory() -> Iterator[sqlite3.Connection]:
    folder = default_cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(folder / FILE, timeout=10)) as connection:
        connection.execute(_TABLE)
        with connection:
            yield connection


def _recalled(keys: Sequence[_Key], name: str) -> dict[_Key, str]:
    known = {}
    with contextlib.suppress(sqlite3.Error, OSError), _memory() as connection:
        for key in keys:
            row = connection.execute(
                "SELECT value FROM facts WHERE path=? AND name=? AND size=? AND mtime=?",
                (key[0], name, key[1], key[2]),
            ).fetchone()
            if row is not None:
                known[key] = str(row[0])
    return known


def _remember(found: dict[_Key, str], name: str) -> None:
    before = time.time_ns() - _FRESH_NS
    rows = [(path, name, size, at, v) for (path, size, at), v in found.items() if at < before]
    if not rows:
        return
    with contextlib.suppress(sqlite3.Error, OSError), _memory() as connection:
        if connection.execute("SELECT COUNT(*) FROM facts").fetchone()[0] > _MOST:
            connection.execute("DELETE FROM facts")
        connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)", rows)
