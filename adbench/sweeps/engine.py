"""Runs cells, each as a process of its own; the contract other engines implement."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adbench.sweeps.grid import Cell


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a cell.

    Attributes:
        status: ``finished``, ``failed`` or ``interrupted``.
        folder: its run folder, None where it never had one.
        reason: one line, for what is not finished.
        seconds: wall time of this attempt.
    """

    status: str
    folder: Path | None
    reason: str | None
    seconds: float


class Engine(Protocol):
    """Runs cells somewhere and reports each as it starts and ends."""

    def run(
        self,
        cells: Sequence[Cell],
        started: Callable[[Cell], None],
        ended: Callable[[Cell, Outcome], None],
    ) -> None: ...


@dataclass(slots=True)
class _Running:
    cell: Cell
    process: subprocess.Popen[str]
    since: float
    log: Path


class LocalEngine:
    """At most ``jobs`` processes at a time on this machine.

    Args:
        command: what a cell's overrides are appended to.
        logs: folder for one log per cell.
        jobs: processes at a time.
        timeout: seconds after which a cell is stopped and failed; None: never.
        environment: variables added to the processes' environment.
    """

    def __init__(
        self,
        logs: Path,
        *,
        flags: Sequence[str] = (),
        jobs: int = 1,
        timeout: float | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.command = [sys.executable, "-m", "adbench", "train"]
        self.flags = list(flags)
        self.logs, self.jobs, self.timeout = logs, jobs, timeout
        self.environment = {**os.environ, **(environment or {})}
        self._running: list[_Running] = []

    def run(
        self,
        cells: Sequence[Cell],
        started: Callable[[Cell], None],
        ended: Callable[[Cell, Outcome], None],
    ) -> None:
        waiting = list(enumerate(cells))
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self.jobs:
                    number, cell = waiting.pop(0)
                    started(cell)
                    self._start(number, cell)
                self._collect(ended)
                time.sleep(0.1)
        except KeyboardInterrupt:
            self._stop_all(ended)
            raise

    def _start(self, number: int, cell: Cell) -> None:
        log = self.logs / f"cell-{number:04d}.log"
        command = [*self.command, *cell.overrides, "plain=true", *self.flags]
        with open(log, "w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=self.environment,
                start_new_session=True,  # Ctrl-C reaches the controller alone, which passes it on
            )
        self._running.append(_Running(cell, process, time.monotonic(), log))

    def _collect(self, ended: Callable[[Cell, Outcome], None]) -> None:
        for running in list(self._running):
            elapsed = time.monotonic() - running.since
            if running.process.poll() is None:
                if self.timeout is None or elapsed < self.timeout:
                    continue
                _stop(running.process)
                outcome = Outcome("failed", None, f"stopped after {elapsed:.0f} s", elapsed)
            else:
                outcome = _outcome(running, elapsed)
            self._running.remove(running)
            ended(running.cell, outcome)

    def _stop_all(self, ended: Callable[[Cell, Outcome], None]) -> None:
        for running in self._running:
            _stop(running.process)
            elapsed = time.monotonic() - running.since
            ended(running.cell, Outcome("interrupted", None, "Ctrl-C", elapsed))
        self._running.clear()


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
    if running.process.returncode == 0 and lines:
        return Outcome("finished", Path(lines[-1].strip()), None, elapsed)
    return Outcome("failed", None, _reason(running.log, running.process.returncode), elapsed)


def _reason(log: Path, code: int) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("adbench: ")]
    if told:
        return told[-1].removeprefix("adbench: ")
    last = lines[-1] if lines else "no output"
    return f"exit code {code}: {last}"[:300]
