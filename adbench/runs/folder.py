"""The run folder: where it lies, who may write it, what state it is in."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from adbench.errors import UserError
from adbench.runs.files import read_json, write_json, write_text

# Keys that say where and how a run happens, not what it computes: they name no other run.
_NOT_HASHED = ("run", "hardware", "logger", "plain", "force", "stage", "until", "images")


def cell_hash(config: Mapping[str, Any]) -> str:
    """Return 8 hex digits fixed by everything in ``config`` that changes results."""
    relevant = {key: value for key, value in config.items() if key not in _NOT_HASHED}
    document = json.dumps(relevant, sort_keys=True, default=str)
    return hashlib.sha256(document.encode()).hexdigest()[:8]


def run_path(config: Mapping[str, Any], category: str) -> Path:
    """Return ``ROOT/MODEL/DATASET/CATEGORY/NAME`` for a resolved configuration."""
    run = config["run"]
    name = run.get("name") or f"seed{config['seed']}-{cell_hash(config)}"
    parts = (config["model"]["name"], config["dataset"]["name"], category, name)
    for part in parts:
        if not part or part in {".", ".."} or "/" in str(part) or "\\" in str(part):
            raise UserError(f"'{part}' cannot name a folder below run.root={run['root']}")
    return Path(run["root"]).joinpath(*map(str, parts))


class RunFolder:
    """One run on disk. Every file is written beside and renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def record(self) -> dict[str, Any]:
        """run.json, or an empty dict before the first write."""
        path = self.path / "run.json"
        return dict(read_json(path)) if path.is_file() else {}

    @property
    def finished(self) -> bool:
        return self.record.get("status") == "finished" and (self.path / "metrics.json").is_file()

    @property
    def resumable(self) -> bool:
        return (self.path / "checkpoints" / "last.ckpt").is_file()

    def update(self, **entries: Any) -> None:
        """Merge ``entries`` into run.json."""
        write_json(self.path / "run.json", {**self.record, **entries})

    def begin(self, config: Mapping[str, Any], overrides: list[str]) -> None:
        """Write what was asked for; keeps checkpoints and stages of an interrupted run."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
        write_text(self.path / "overrides.yaml", yaml.safe_dump(overrides))

    def clear(self) -> None:
        """Delete everything but the lock (``force=true``)."""
        for child in self.path.iterdir() if self.path.is_dir() else ():
            if child.name == ".lock":
                continue
            if child.is_dir():
                shutil.rmtree(child)
            else:
                child.unlink()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against other processes.

        The lock is the operating system's, so that one left by a killed process is free.

        Raises:
            UserError: another process writes this folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "a+", encoding="utf-8") as handle:
            if not _try_lock(handle.fileno()):
                handle.seek(0)
                owner = handle.read().strip() or "unknown"
                raise UserError(
                    f"{self.path} is being written by another process ({owner}); "
                    "wait for it or choose another run.name"
                )
            handle.truncate(0)
            handle.write(f"pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            handle.flush()
            yield


def _try_lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def open_run(folder: str | Path) -> tuple[RunFolder, dict[str, Any]]:
    """Return a run folder and its configuration.

    Raises:
        UserError: the folder is missing or holds no run.
    """
    path = Path(folder)
    if not (path / "config.yaml").is_file():
        near = sorted(p.parent for p in path.parent.glob("*/config.yaml"))
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{path} is not a run folder (no config.yaml){hint}")
    config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    return RunFolder(path), config
