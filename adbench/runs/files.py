"""Files that are whole or absent, and that lead nowhere else."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adbench.errors import UserError


@contextlib.contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, renamed to ``path`` on success.

    On an error nothing is left behind and ``path`` keeps its former content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.chmod(0o666 & ~_UMASK)  # some writers make files that only their owner reads
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary folder, renamed to ``path`` on success, replacing what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        remove(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    with write_beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write ``document`` as strict JSON (NaN is an error: a missing value is null)."""
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return a JSON document.

    Raises:
        UserError: the file is missing, broken, no JSON or absurdly large; names the way out.
    """
    try:
        return json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(_broken(path, error)) from error


def read_record(path: Path) -> dict[str, Any]:
    """Return a JSON document that is an object.

    Raises:
        UserError: as ``read_json``, or it is something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(_broken(path, f"an object is expected, found {type(found).__name__}"))
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML document of plain values that is a mapping.

    Raises:
        UserError: the file is missing, broken, names objects, or is something else.
    """
    import yaml

    try:
        found = yaml.safe_load(_read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(_broken(path, error)) from error
    if not isinstance(found, dict):
        raise UserError(_broken(path, f"a mapping is expected, found {type(found).__name__}"))
    return found


def _read_text(path: Path) -> str:
    if not path.is_file():  # a pipe or a device would keep the reader waiting
        raise UserError(f"{path} is missing or no ordinary file; {WAY_OUT}")
    if path.stat().st_size > _MOST:
        raise UserError(_broken(path, f"more than {_MOST >> 20} MiB"))
    return path.read_text(encoding="utf-8")


WAY_OUT = "repeat the run with force=true, or use another run.name"


def _broken(path: Path, why: object) -> str:
    told = " ".join(str(why).split())[:160]
    return f"{path} cannot be read ({told}); {WAY_OUT}"


def remove(path: Path) -> None:
    """Delete a file, a folder or a symbolic link (never what it points to), if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files and folders that killed processes left below ``folder``.

    Whoever calls this holds the folder's lock.
    """
    for path in [*folder.rglob(".*.tmp"), *folder.rglob(".*.tmp.*")]:
        if _LEFTOVER.fullmatch(path.name):
            remove(path)


def confined(folder: Path, *parts: str) -> Path:
    """Return the path below ``folder``.

    Raises:
        UserError: a symbolic link leads it elsewhere.
    """
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path} is a link that leads out of {folder}; remove it")
    return path


def safe_name(name: str, what: str) -> str:
    """Return ``name`` where it can name one folder.

    Raises:
        UserError: it is empty, too long, holds a separator or what a terminal would obey.
    """
    plain = name.isprintable() and not re.search(r"[/\\]", name)
    if not plain or name.strip() in ("", ".", "..") or len(os.fsencode(name)) > 200:
        raise UserError(f"{what}={name[:80]!r} cannot name a folder")
    return name


def open_beneath(path: Path, mode: str) -> Any:
    """Open a text file for appending, but never through a symbolic link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.fdopen(os.open(path, flags, 0o666), mode, encoding="utf-8")
    except OSError as error:
        if path.is_symlink():
            raise UserError(f"{path} is a link; remove it") from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()
_MOST = 256 << 20  # bytes of a JSON or YAML file that is read
_LEFTOVER = re.compile(r"\..+\.\d+\.tmp(\.\w+)?")
