"""The run folder: where it lies, who may write it, what state it is in."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adbench.errors import UserError
from adbench.runs.files import (
    WAY_OUT,
    confined,
    open_beneath,
    read_record,
    read_yaml,
    remove,
    remove_leftovers,
    safe_name,
    write_json,
    write_text,
)

# Keys that say where and how a run is shown, not what it computes: they name no other run.
_NOT_HASHED = ("run", "logger", "plain", "force", "stage", "until", "images")
_HARDWARE_NOT_HASHED = ("workers",)


def relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a resolved configuration can change figures: threads and precision too."""
    kept = {key: value for key, value in config.items() if key not in _NOT_HASHED}
    hardware = kept.get("hardware")
    if isinstance(hardware, Mapping):
        kept["hardware"] = {k: v for k, v in hardware.items() if k not in _HARDWARE_NOT_HASHED}
    return kept


def cell_hash(config: Mapping[str, Any]) -> str:
    """Return 8 hex digits fixed by everything in ``config`` that changes results."""
    document = json.dumps(relevant(config), sort_keys=True, default=str)
    return hashlib.sha256(document.encode()).hexdigest()[:8]


def run_path(config: Mapping[str, Any], category: str) -> Path:
    """Return ``ROOT/MODEL/DATASET/CATEGORY/NAME`` for a resolved configuration.

    Raises:
        UserError: a part cannot name a folder, or a link below the root leads elsewhere.
    """
    run = config["run"]
    name = run.get("name") or f"seed{config['seed']}-{cell_hash(config)}"
    parts = {
        "model.name": config["model"]["name"],
        "dataset.name": config["dataset"]["name"],
        "dataset.category": category,
        "run.name": name,
    }
    names = [safe_name(str(part), what) for what, part in parts.items()]
    return confined(Path(run["root"]).expanduser(), *names)


class RunFolder:
    """One run on disk. Every file is written beside and renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def record(self) -> dict[str, Any]:
        """run.json, or an empty dict before the first write.

        Raises:
            UserError: the file is broken.
        """
        path = self.path / "run.json"
        return read_record(path) if path.exists() else {}

    @property
    def finished(self) -> bool:
        return self.record.get("status") == "finished" and (self.path / "metrics.json").is_file()

    @property
    def begun(self) -> bool:
        """Whether a training has left something here that another one would mix with."""
        return any((self.path / name).exists() for name in ("run.json", "stages", "checkpoints"))

    def update(self, **entries: Any) -> None:
        """Merge ``entries`` into run.json."""
        write_json(self.path / "run.json", {**self.record, **entries})

    def begin(self, config: Mapping[str, Any], overrides: list[str]) -> None:
        """Write what was asked for; keeps checkpoints and stages of an interrupted run."""
        import yaml  # here, for those who only hold a folder

        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
        write_text(self.path / "overrides.yaml", yaml.safe_dump(overrides))

    def clear(self) -> None:
        """Delete everything but the lock (``force=true``)."""
        for child in self.path.iterdir() if self.path.is_dir() else ():
            if child.name != ".lock":
                remove(child)


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[int]:
    """Hold ``folder`` against other processes; yield the descriptor that holds the lock.

    The lock is the operating system's, so that one left by a killed process is free. What killed
    processes left half written is removed.

    Args:
        wait: wait for the other process instead of refusing.

    Raises:
        UserError: another process writes this folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open_beneath(folder / ".lock", "a+") as handle:
        while not try_lock(handle.fileno()):
            if not wait:
                handle.seek(0)
                owner = handle.read(200).strip() or "unknown"
                raise UserError(
                    f"{folder} is being written by another process ({owner}); "
                    "wait for it or choose another name"
                )
            time.sleep(0.5)
        handle.truncate(0)
        handle.write(f"pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        handle.flush()
        remove_leftovers(folder)
        yield handle.fileno()


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file; return whether it was free."""
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
        UserError: the folder is missing, holds no run, or its configuration is broken.
    """
    path = Path(folder).expanduser()
    if not (path / "config.yaml").exists():
        near = sorted(p.parent for p in path.parent.glob("*/config.yaml"))
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{path} is not a run folder (no config.yaml){hint}")
    config = read_yaml(path / "config.yaml")
    if not isinstance(config.get("model"), dict):
        raise UserError(f"{path / 'config.yaml'}: section model is missing; {WAY_OUT}")
    return RunFolder(path), config
