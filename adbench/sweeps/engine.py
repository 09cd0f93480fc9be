"""Runs cells, each as a process of its own: the loop that every launcher shares."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adbench.sweeps.attempt import Ended
from adbench.sweeps.claims import Claims
from adbench.sweeps.grid import Cell

_LOOK = 1.0  # seconds between two looks at the progress of a running cell, or at others' cells
_AT_ONCE = 64  # cells looked at in one turn, where others hold them


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

    def lost(self, cell: Cell, reason: str) -> None:
        """Its worker was killed; it is tried again."""
        ...

    def due(self, cell: Cell) -> bool:
        """Whether the cell is still to be run; another controller may have done so meanwhile."""
        ...

    def hopeless(self, cell: Cell) -> str | None:
        """Why a running cell is to be stopped before its end; None: it goes on."""
        ...

    def more(self, room: int) -> Sequence[Cell]:
        """Return up to ``room`` further cells; none where there are none now."""
        ...

    def unsettled(self) -> bool:
        """Whether others still work on what may yet come back as ``more``."""
        ...

    def rest(self) -> None:
        """Called between turns: time for what need not be done at once."""
        ...


class Job(Protocol):
    """A cell that a launcher has taken."""

    def poll(self) -> Ended | None:
        """Return how it ended; None while it waits or runs."""
        ...

    def stop(self) -> None:
        """Stop it; it is at rest afterwards, as far as the launcher can tell."""
        ...


class Launcher(Protocol):
    """Starts cells somewhere.

    Attributes:
        jobs: how many it takes at a time.
        remote: the cells' processes do not inherit the controller's locks.
        pause: seconds between two turns.
    """

    jobs: int
    remote: bool
    pause: float

    def start(self, cells: Sequence[Cell], claims: Claims) -> Sequence[Job]:
        """Start cells whose claims are held."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Running:
    cell: Cell
    job: Job
    since: float
    looked: float = 0.0  # when its progress was last judged


class Engine:
    """Takes cells that nobody holds, at most ``launcher.jobs`` at a time, and sees them through.

    Args:
        claims: controllers that share their folder share the cells.
        timeout: seconds after which a cell is stopped and failed; None: never.
        retries: how often a cell is started again whose process or worker was killed.
    """

    def __init__(
        self,
        launcher: Launcher,
        claims: Claims,
        *,
        timeout: float | None = None,
        retries: int = 2,
    ) -> None:
        self.launcher, self.claims = launcher, claims
        self.timeout, self.retries = timeout, retries
        self._running: list[_Running] = []
        self._lost: Counter[str] = Counter()
        self._next_look = 0.0

    def run(self, cells: Sequence[Cell], report: Report) -> None:
        """Run what is due; wait for cells that another controller holds.

        Ends when nothing waits or runs, and the report has nothing more.
        """
        waiting = deque(cells)
        try:
            while True:
                room = self.launcher.jobs - len(self._running) - len(waiting)
                waiting.extend(report.more(room) if room > 0 else [])
                if not waiting and not self._running:
                    if not report.unsettled():
                        return
                    time.sleep(_LOOK)
                self._start(waiting, report)
                if not self._collect(waiting, report):
                    time.sleep(self.launcher.pause)
                self.claims.renew()
                report.rest()
        except BaseException:
            self._stop_all(report)
            raise
        finally:
            self.launcher.close()

    def _start(self, waiting: deque[Cell], report: Report) -> None:
        """Start as many as there is room for; those that others hold go to the end."""
        room = self.launcher.jobs - len(self._running)
        if room <= 0 or time.monotonic() < self._next_look:
            return
        taken: list[Cell] = []
        settled = looked = 0
        for _ in range(min(len(waiting), room + _AT_ONCE)):
            if len(taken) >= room:
                break
            cell = waiting.popleft()
            looked += 1
            if not self.claims.take(cell):
                waiting.append(cell)
            elif report.due(cell):
                taken.append(cell)
            else:
                self.claims.release(cell)
                settled += 1
        if looked and not taken and not settled:
            self._next_look = time.monotonic() + _LOOK
        if taken:
            self._launch(taken, report)

    def _launch(self, cells: Sequence[Cell], report: Report) -> None:
        for cell in cells:
            report.started(cell)
        now = time.monotonic()
        try:
            jobs = self.launcher.start(cells, self.claims)
        except BaseException:  # a queue that takes no jobs: others may take the cells
            for cell in cells:
                report.ended(cell, Outcome("interrupted", None, "could not be started", 0.0))
                self.claims.release(cell)
            raise
        self._running += [_Running(*each, now) for each in zip(cells, jobs, strict=True)]

    def _collect(self, waiting: deque[Cell], report: Report) -> bool:
        """Settle what has ended; return whether anything has."""
        before = len(self._running)
        for running in list(self._running):
            elapsed = time.monotonic() - running.since
            found = running.job.poll()
            if found is not None and found.status == "lost" and self._again(running, found, report):
                waiting.appendleft(running.cell)
                continue
            outcome = self._outcome(running, found, elapsed, report)
            if outcome is not None:
                self._running.remove(running)
                report.ended(running.cell, outcome)
                self.claims.release(running.cell)
        return len(self._running) < before

    def _again(self, running: _Running, found: Ended, report: Report) -> bool:
        self._lost[running.cell.id] += 1
        if self._lost[running.cell.id] > self.retries:
            return False
        report.lost(running.cell, found.reason or "its worker was lost")
        self._running.remove(running)
        self.claims.release(running.cell)
        return True

    def _outcome(
        self, running: _Running, found: Ended | None, elapsed: float, report: Report
    ) -> Outcome | None:
        if found is not None:
            folder = None if found.folder is None else Path(found.folder)
            status = "failed" if found.status == "lost" else found.status
            return Outcome(status, folder, found.reason, elapsed)
        if self.timeout is not None and elapsed >= self.timeout:
            running.job.stop()
            return Outcome("failed", None, f"stopped after {elapsed:.0f} s", elapsed)
        if why := _hopeless(running, report):
            running.job.stop()
            return Outcome("pruned", None, why, elapsed)
        return None

    def _stop_all(self, report: Report) -> None:
        with _unhurried():
            for running in self._running:
                running.job.stop()
                elapsed = time.monotonic() - running.since
                report.ended(running.cell, Outcome("interrupted", None, "stopped", elapsed))
                self.claims.release(running.cell)
        self._running.clear()


def _hopeless(running: _Running, report: Report) -> str | None:
    now = time.monotonic()
    if now - running.looked < _LOOK:
        return None
    running.looked = now
    return report.hopeless(running.cell)


@contextlib.contextmanager
def _unhurried() -> Iterator[None]:
    """Let the cells be stopped and written down before a second Ctrl-C counts."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
