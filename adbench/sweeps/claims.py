"""Who runs a cell: one controller at a time, on this machine or on another that sees the folder."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adbench.runs.files import open_beneath
from adbench.runs.folder import try_lock
from adbench.sweeps.grid import Cell

LEASE = 120.0  # seconds without a sign of life after which another machine's cell is free


@dataclass(slots=True)
class Claim:
    """A cell that is held.

    Attributes:
        handle: the open lock file; a process that inherits it holds the cell too.
        lease: what other machines see; its time of change is the last sign of life.
    """

    handle: Any
    lease: Path

    def release(self) -> None:
        self.lease.unlink(missing_ok=True)
        self.handle.close()


class Claims:
    """Locks below ``folder``, one a cell.

    Two things are held. ``ID.lock`` is locked by the operating system, so that a killed process
    frees it at once. ``ID.lease`` is made by whoever makes it first and touched while the cell
    runs: it holds where the lock of another machine is not seen (Lustre without ``-o flock``, some
    NFS). Times are compared on the file server's clock.

    Args:
        remote: cells run where they do not inherit the lock: their lease must have gone stale.
        host: this machine's name, another for tests.
        lease: seconds.
    """

    def __init__(
        self, folder: Path, *, remote: bool = False, host: str | None = None, lease: float = LEASE
    ) -> None:
        self.folder, self.remote, self.lease = folder, remote, lease
        self.host = host or machine()
        self._held: dict[str, Claim] = {}
        self._renewed = time.monotonic()

    def take(self, cell: Cell) -> bool:
        """Hold a cell; return False where somebody else does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = open_beneath(self.folder / f"{cell.id}.lock", "a+")
        if try_lock(handle.fileno()) and self._lease(self.lease_of(cell)):
            self._held[cell.id] = Claim(handle, self.lease_of(cell))
            return True
        handle.close()
        return False

    def lease_of(self, cell: Cell) -> Path:
        return self.folder / f"{cell.id}.lease"

    def descriptor(self, cell: Cell) -> int:
        """Return what a process inherits to hold the cell too."""
        return int(self._held[cell.id].handle.fileno())

    def release(self, cell: Cell) -> None:
        self._held.pop(cell.id).release()

    def held(self, cell: Cell) -> bool:
        """Whether anybody holds the cell."""
        path = self.folder / f"{cell.id}.lock"
        if not path.exists():
            return False
        with open_beneath(path, "a+") as handle:
            return not try_lock(handle.fileno()) or self._lives(self.lease_of(cell))

    def renew(self) -> None:
        """Give a sign of life of every cell that is held, a few times a lease."""
        if time.monotonic() - self._renewed < self.lease / 6:
            return
        self._renewed = time.monotonic()
        for claim in self._held.values():
            with contextlib.suppress(OSError):
                os.utime(claim.lease)

    def _lease(self, path: Path) -> bool:
        """Make the lease; return False where a living one is there."""
        if path.exists():
            before = _text(path)
            if self._lives(path):
                return False
            _bury(path, before)
        return _made(
            path, json.dumps({"host": self.host, "remote": self.remote, "pid": os.getpid()})
        )

    def _lives(self, path: Path) -> bool:
        """Whether a lease is held; that its lock is free is known."""
        try:
            owner = json.loads(_text(path) or "{}")
        except ValueError:
            owner = {}
        if owner.get("host") == self.host and not owner.get("remote"):
            return False  # the lock would tell
        try:
            return self._now() - path.stat().st_mtime < self.lease
        except OSError:
            return False

    def _now(self) -> float:
        """Return the time by the clock that stamps the folder's files."""
        clock = self.folder / f".clock-{self.host}-{os.getpid()}"
        clock.touch()
        now = clock.stat().st_mtime
        clock.unlink(missing_ok=True)
        return now


def machine() -> str:
    """Return a name of this machine that containers on it share and others do not have."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
    return boot


def beat(lease: Path) -> None:
    """Give a sign of life from where the cell runs."""
    with contextlib.suppress(OSError):
        os.utime(lease)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:1000]
    except OSError:
        return ""


def _made(path: Path, text: str) -> bool:
    """Make a file with ``text``, whole; False where it is there already."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.link(beside, path)  # one of several wins, on network file systems too
    except FileExistsError:
        return False
    finally:
        beside.unlink(missing_ok=True)
    return True


def _bury(path: Path, content: str) -> None:
    """Remove a dead lease, unless it has just become another's."""
    grave = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        os.rename(path, grave)
        if _text(grave) != content:
            os.link(grave, path)
        grave.unlink()
