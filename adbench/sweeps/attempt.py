"""One attempt at a cell: a process of its own, started here or wherever an engine has room."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adbench.sweeps.claims import LEASE, beat

WAIT = "ADBENCH_WAIT"  # `train` waits for whoever writes its run folder
_LOOK = 0.2  # seconds between two looks at a process that another machine runs


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended.

    Attributes:
        status: ``finished``, ``failed``, ``interrupted``, or ``lost`` where the process or its
            worker was killed: the cell is tried again.
        folder: the run folder as the cell printed it.
        reason: one line, for what is not finished.
        archive: the run folder as a tar file, where the machines share none.
    """

    status: str
    folder: str | None = None
    reason: str | None = None
    archive: bytes | None = None


@dataclass(slots=True)
class Attempt:
    """What starts a cell's process; called where it is to run, which blocks until it ended.

    Attributes:
        overrides: of the cell, with what follows them.
        log: file of its stderr.
        cwd: folder in which it runs.
        environ: variables beside the machine's own.
        lease: file that is touched while it runs; None: nobody asks.
        halt: a file; where it appears, the process is stopped. None: nobody will.
    """

    overrides: tuple[str, ...]
    log: str
    cwd: str
    environ: Mapping[str, str] = field(default_factory=dict)
    lease: str | None = None
    halt: str | None = None
    _process: Any = None

    def start(self, descriptors: Sequence[int] = ()) -> subprocess.Popen[str]:
        """Start the process; it inherits ``descriptors`` and ends with the one that starts it."""
        Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        # -P: a random.py in the current folder is not what a cell imports
        command = [sys.executable, "-P", "-m", "adbench", "train", *self.overrides]
        with open(self.log, "w", encoding="utf-8") as errors:
            return subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=self.cwd,
                env={**os.environ, WAIT: "1", **self.environ},
                pass_fds=tuple(descriptors) if os.name == "posix" else (),
                preexec_fn=_child_signals() if os.name == "posix" else None,
                start_new_session=True,  # Ctrl-C reaches the controller alone, which passes it on
            )

    def __call__(self) -> Ended:
        process = self._process = self.start()
        try:
            told = 0.0
            while process.poll() is None:
                if self.halt is not None and os.path.exists(self.halt):
                    stop(process)
                if self.lease is not None and time.monotonic() - told > LEASE / 6:
                    told = time.monotonic()
                    beat(Path(self.lease))
                time.sleep(_LOOK)
        except BaseException:  # cancelled
            stop(process)
            raise
        finally:
            self._process = None
        return ended(process, Path(self.log))

    def checkpoint(self, *arguments: Any) -> Any:
        """Stop in time and return what submitit is to queue again: the run goes on by itself."""
        from submitit.helpers import DelayedSubmission

        del arguments
        if self._process is not None:
            stop(self._process)
            self._process = None
        return DelayedSubmission(self)


def ended(process: subprocess.Popen[str], log: Path) -> Ended:
    """Return how a process that ended did so."""
    output = process.stdout.read() if process.stdout else ""
    lines = [line for line in output.splitlines() if line.strip()]
    code = process.returncode
    if code == 0 and lines:
        return Ended("finished", lines[-1].strip())
    if code == 130:
        return Ended("interrupted", reason="stopped from outside")
    return Ended("lost" if code == -signal.SIGKILL else "failed", reason=_reason(log, code))


def stop(process: subprocess.Popen[str]) -> None:
    """Let a process write down where it is, within 20 s."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _child_signals() -> Callable[[], None]:
    """Return what lets the child, before it starts, hear whatever is to end it.

    A shell's background jobs ignore SIGINT and hand that on, but ``stop`` sends it. Linux is asked
    for SIGTERM when the process above dies.
    """
    import ctypes

    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    parent, death_signal = os.getpid(), 1

    def ask() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if library is not None:
            library.prctl(death_signal, signal.SIGTERM)
            if os.getppid() != parent:  # it died meanwhile
                os._exit(130)

    return ask


def _reason(log: Path, code: int) -> str:
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("adbench: ")]
    if told:
        return told[-1].removeprefix("adbench: ")
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    last = lines[-1] if lines else "no output"
    return f"{how}: {last}"[:300]
