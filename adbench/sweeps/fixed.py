"""The configuration of a sweep, fixed when it begins: files edited later change no cell."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from adbench.config.locate import FIXED, conf_folder
from adbench.runs.files import folder_beside

_OWN, _THEIRS = "adbench", "own"


class FixedConf:
    """Copies of conf/ and of a user's folder below ``folder``/conf, made once.

    Attributes:
        folder: where the copies lie.
        config_dir: the copy of ``config_dir``; None where there is none.
        changed: files of today's that are not what the sweep began with.
    """

    def __init__(self, folder: Path, config_dir: Path | None) -> None:
        self.folder = folder / "conf"
        sources = {_OWN: conf_folder()} | ({_THEIRS: config_dir} if config_dir else {})
        if not self.folder.is_dir():
            with folder_beside(self.folder) as temporary:
                for name, source in sources.items():
                    _copy(source, temporary / name)
        self.config_dir = self.folder / _THEIRS if config_dir else None
        self.changed = [
            name
            for part, source in sources.items()
            for name in _differing(source, self.folder / part)
        ]

    @property
    def environ(self) -> dict[str, str]:
        """Return what makes a cell read the copy."""
        return {FIXED: str((self.folder / _OWN).resolve())}

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Compose by the copy, as cells do."""
        before = os.environ.get(FIXED)
        os.environ |= self.environ
        try:
            yield
        finally:
            os.environ.pop(FIXED)
            os.environ |= {} if before is None else {FIXED: before}

    @property
    def flags(self) -> list[str]:
        """Return the flags that a cell gets."""
        return ["--config-dir", str(self.config_dir.resolve())] if self.config_dir else []

    def told(self) -> str:
        """Return in one line what has changed since; empty where nothing has."""
        if not self.changed:
            return ""
        named = ", ".join(self.changed[:3]) + (" ..." if len(self.changed) > 3 else "")
        return (
            f"note: {named} changed since this sweep began: its cells read {self.folder}; "
            "another sweep.name= takes today's"
        )


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for name, path in _files(source).items():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())


def _differing(source: Path, copy: Path) -> list[str]:
    ours, kept = _files(source), _files(copy)
    both = ours.keys() & kept.keys()
    changed = {name for name in both if ours[name].read_bytes() != kept[name].read_bytes()}
    return sorted(changed | (ours.keys() ^ kept.keys()))
