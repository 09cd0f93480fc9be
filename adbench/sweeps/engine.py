"""Runs cells, each as a process of its own; the contract other engines implement."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from adbench.runs.files import open_beneath
from adbench.runs.folder import try_lock
from adbench.sweeps.grid import Cell

_LOOK = 1.0  # seconds between two looks at the progress of a running cell
WAIT = "ADBENCH_WAIT"  # set for cells: `train` waits for whoever writes its run folder


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a cell.

    Attributes:
        status: ``finished``, ``failed``, ``interrupted`` or ``pruned``.
        folder: its run folder, None where it never had one.
        reason: one line, for what is not finished.
        seconds: wall time of this attempt.
    """

    status: str
    folder: Path | None
    reason: str | None
    seconds: float


class Report(Protocol):
    """What an engine tells about cells, and asks."""

    def started(self, cell: Cell) -> None: ...

    def ended(self, cell: Cell, outcome: Outcome) -> None: ...

    def due(self, cell: Cell) -> bool:
        """Whether the cell is still to be run; another controller may have done so meanwhile."""
        ...

    def hopeless(self, cell: Cell) -> str | None:
        """Why a running cell is to be stopped before its end; None: it goes on."""
        ...

    def more(self, room: int) -> Sequence[Cell]:
        """Return up to ``room`` further cells; none where there are none now."""
        ...


class Engine(Protocol):
    """Runs cells somewhere and reports each as it starts and ends."""

    def run(self, cells: Sequence[Cell], report: Report) -> None: ...


@dataclass(slots=True)
class _Running:
    cell: Cell
    process: subprocess.Popen[str]
    since: float
    log: Path
    claim: Any  # the open file whose lock the process holds too
    looked: float = 0.0  # when its progress was last judged


class LocalEngine:
    """At most ``jobs`` processes at a time on this machine.

    A cell is taken by locking ``CLAIMS/ID.lock``. Its process inherits the lock, so that nobody
    takes a cell that still runs, not even after its controller was killed; on Linux the process
    is told to end then.

    Args:
        logs: folder for one log per cell.
        claims: folder of the locks; controllers that share it share the cells.
        flags: what follows every cell's overrides.
        jobs: processes at a time.
        timeout: seconds after which a cell is stopped and failed; None: never.
    """

    def __init__(
        self,
        logs: Path,
        claims: Path,
        *,
        flags: Sequence[str] = (),
        jobs: int = 1,
        timeout: float | None = None,
    ) -> None:
        # -P: a random.py in the current folder is not what a cell imports
        self.command = [sys.executable, "-P", "-m", "adbench", "train"]
        self.flags = list(flags)
        self.logs, self.claims, self.jobs, self.timeout = logs, claims, jobs, timeout
        self._running: list[_Running] = []

    def run(self, cells: Sequence[Cell], report: Report) -> None:
        """Run what is due; wait for cells that another controller's processes hold.

        Ends when nothing waits or runs, and the report has nothing more.
        """
        waiting = list(cells)
        for folder in (self.logs, self.claims):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            while True:
                room = self.jobs - len(self._running) - len(waiting)
                waiting += report.more(room) if room > 0 else []
                if not waiting and not self._running:
                    return
                waiting = [cell for cell in waiting if not self._taken(cell, report)]
                self._collect(report)
                time.sleep(0.1)
        except BaseException:
            self._stop_all(report)
            raise

    def _taken(self, cell: Cell, report: Report) -> bool:
        """Start a cell where there is room and nobody runs it; return whether it is settled."""
        if len(self._running) >= self.jobs:
            return False
        claim = open_beneath(self.claims / f"{cell.id}.lock", "a+")
        if not try_lock(claim.fileno()):
            claim.close()
            return False
        if not report.due(cell):
            claim.close()
            return True
        report.started(cell)
        self._start(cell, claim)
        return True

    def _start(self, cell: Cell, claim: Any) -> None:
        log = self.logs / f"{cell.id}.log"
        with open(log, "w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [*self.command, *cell.overrides, "plain=true", *self.flags],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, WAIT: "1"},
                pass_fds=(claim.fileno(),) if os.name == "posix" else (),
                preexec_fn=_end_with_parent() if sys.platform == "linux" else None,
                start_new_session=True,  # Ctrl-C reaches the controller alone, which passes it on
            )
        self._running.append(_Running(cell, process, time.monotonic(), log, claim))

    def _collect(self, report: Report) -> None:
        for running in list(self._running):
            elapsed = time.monotonic() - running.since
            if running.process.poll() is not None:
                outcome = _outcome(running, elapsed)
            elif self.timeout is not None and elapsed >= self.timeout:
                _stop(running.process)
                outcome = Outcome("failed", None, f"stopped after {elapsed:.0f} s", elapsed)
            elif why := self._hopeless(running, report):
                _stop(running.process)
                outcome = Outcome("pruned", None, why, elapsed)
            else:
                continue
            self._running.remove(running)
            report.ended(running.cell, outcome)
            running.claim.close()

    @staticmethod
    def _hopeless(running: _Running, report: Report) -> str | None:
        now = time.monotonic()
        if now - running.looked < _LOOK:
            return None
        running.looked = now
        return report.hopeless(running.cell)

    def _stop_all(self, report: Report) -> None:
        with _unhurried():
            for running in self._running:
                _stop(running.process)
                elapsed = time.monotonic() - running.since
                report.ended(running.cell, Outcome("interrupted", None, "stopped", elapsed))
                running.claim.close()
        self._running.clear()


def claimed(claims: Path, cell: Cell) -> bool:
    """Whether a process holds the cell."""
    if not (claims / f"{cell.id}.lock").exists():
        return False
    with open_beneath(claims / f"{cell.id}.lock", "a+") as handle:
        return not try_lock(handle.fileno())


@contextlib.contextmanager
def _unhurried() -> Iterator[None]:
    """Let the cells be stopped and written down before a second Ctrl-C counts."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with_parent() -> Callable[[], None]:
    """Return what asks Linux, in the child, to be sent SIGTERM when the controller dies."""
    import ctypes

    library, parent, death_signal = ctypes.CDLL(None), os.getpid(), 1

    def ask() -> None:
        library.prctl(death_signal, signal.SIGTERM)
        if os.getppid() != parent:  # it died meanwhile
            os._exit(130)

    return ask


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _outcome(running: _Running, elapsed: float) -> Outcome:
    output = running.process.stdout.read() if running.process.stdout else ""
    lines = [line for line in output.splitlines() if line.strip()]
    code = running.process.returncode
    if code == 0 and lines:
        return Outcome("finished", Path(lines[-1].strip()), None, elapsed)
    if code == 130:
        return Outcome("interrupted", None, "stopped from outside", elapsed)
    return Outcome("failed", None, _reason(running.log, code), elapsed)


def _reason(log: Path, code: int) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("adbench: ")]
    if told:
        return told[-1].removeprefix("adbench: ")
    ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    last = lines[-1] if lines else "no output"
    return f"{ended}: {last}"[:300]
