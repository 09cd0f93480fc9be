"""Launchers that need no scheduler: processes of this controller, or of joblib's workers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adbench.sweeps.attempt import Attempt, Ended, ended, stop
from adbench.sweeps.claims import Claims
from adbench.sweeps.engine import Job
from adbench.sweeps.grid import Cell

Attempts = Callable[[Cell, Claims, bool], Attempt]  # the last: whether others start it


class Slots:
    """Spreads GPUs over the cells that run at a time.

    Args:
        devices: numbers of GPUs; none: every cell sees all.
    """

    def __init__(self, devices: Sequence[int]) -> None:
        self.devices = list(devices)
        self._used: dict[str, int] = {}

    def environ(self, cell: Cell) -> dict[str, str]:
        """Return what shows a cell the GPU that fewest others use."""
        if not self.devices:
            return {}
        taken = list(self._used.values())
        device = min(self.devices, key=lambda each: (taken.count(each), self.devices.index(each)))
        self._used[cell.id] = device
        return {"CUDA_VISIBLE_DEVICES": str(device)}

    def free(self, cell: Cell) -> None:
        self._used.pop(cell.id, None)


@dataclass(slots=True)
class _LocalJob:
    process: subprocess.Popen[str]
    log: Path
    free: Callable[[], None]

    def poll(self) -> Ended | None:
        if self.process.poll() is None:
            return None
        self.free()
        return ended(self.process, self.log)

    def stop(self) -> None:
        stop(self.process)
        self.free()


class Local:
    """Processes on this machine. They inherit the claims' locks: a cell stays held while it runs,
    even after its controller was killed; on Linux the process is told to end then.
    """

    remote, pause = False, 0.1

    def __init__(self, attempts: Attempts, *, jobs: int = 1, devices: Sequence[int] = ()) -> None:
        self.attempts, self.jobs, self.slots = attempts, jobs, Slots(devices)

    def start(self, cells: Sequence[Cell], claims: Claims) -> Sequence[Job]:
        return [self._started(cell, claims) for cell in cells]

    def _started(self, cell: Cell, claims: Claims) -> Job:
        attempt = self.attempts(cell, claims, False)
        attempt.environ = {**attempt.environ, **self.slots.environ(cell)}
        process = attempt.start([claims.descriptor(cell)])
        return _LocalJob(process, Path(attempt.log), lambda: self.slots.free(cell))

    def close(self) -> None:
        """Nothing is kept."""


@dataclass(slots=True)
class _PoolJob:
    future: Any
    halt: Path
    free: Callable[[], None]

    def poll(self) -> Ended | None:
        if not self.future.done():
            return None
        self.free()
        try:
            found: Ended = self.future.result()
        except Exception as error:  # TerminatedWorkerError, BrokenProcessPool, CancelledError
            found = Ended("lost", reason=f"a worker of joblib was lost ({type(error).__name__})")
        return found

    def stop(self) -> None:
        self.halt.touch()
        self.future.cancel()
        try:
            self.future.result(timeout=30)
        except BaseException:  # what it came to is of no interest any more
            pass
        finally:
            self.halt.unlink(missing_ok=True)
            self.free()


class Joblib:
    """Workers of joblib's loky, each of which starts one cell's process at a time."""

    remote, pause = True, 0.1

    def __init__(
        self, attempts: Attempts, *, jobs: int | None = None, devices: Sequence[int] = ()
    ) -> None:
        self.attempts, self.slots = attempts, Slots(devices)
        self.jobs = jobs or os.cpu_count() or 1

    def start(self, cells: Sequence[Cell], claims: Claims) -> Sequence[Job]:
        return [self._started(cell, claims) for cell in cells]

    def _started(self, cell: Cell, claims: Claims) -> Job:
        attempt = self.attempts(cell, claims, True)
        attempt.environ = {**attempt.environ, **self.slots.environ(cell)}
        attempt.halt = f"{attempt.log}.halt"
        Path(attempt.halt).parent.mkdir(parents=True, exist_ok=True)
        Path(attempt.halt).unlink(missing_ok=True)
        future = self._executor().submit(attempt)
        return _PoolJob(future, Path(attempt.halt), lambda: self.slots.free(cell))

    def _executor(self) -> Any:
        """Return the workers, new ones where one was killed."""
        from joblib.externals.loky import get_reusable_executor

        return get_reusable_executor(max_workers=self.jobs, timeout=300)

    def close(self) -> None:
        self._executor().shutdown(wait=True, kill_workers=True)
