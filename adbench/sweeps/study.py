"""The memory of a search: which trials were asked for and what became of them.

One line an event in ``trials.jsonl``. Run folders hold the figures; the sampler only advises, and
is built anew from the events for each question, so that a killed search loses nothing and several
controllers share one.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adbench.errors import UserError
from adbench.runs.files import open_beneath, read_record, write_json
from adbench.runs.folder import try_lock

STATES = ("complete", "pruned", "failed")
_MOST_FAILED = 3  # trials that fail beyond those that do not: something else is wrong
_GRACE = 60.0  # seconds in which another machine's trial may not have its process yet


@dataclass(slots=True)
class Trial:
    """One setting of the searched keys.

    Attributes:
        values: of the objectives, once complete.
        curve: epoch -> validation signal.
        state: ``asked``, or one of STATES.
        asker: host and process that asked last, and when.
        attempts: how often it was asked for: it was killed between.
    """

    number: int
    params: dict[str, Any]
    state: str = "asked"
    values: tuple[float, ...] = ()
    curve: dict[int, float] = field(default_factory=dict)
    asker: tuple[str, int, float] = ("", 0, 0.0)
    attempts: int = 0


class Study:
    """Trials below ``folder``; every change happens under a lock and is on the disk afterwards.

    Args:
        request: what is searched; another request in the same folder is refused.

    Raises:
        UserError: the folder holds another search.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "study.json"
        plain = json.loads(json.dumps(request))
        if path.exists() and read_record(path) != plain:
            raise UserError(f"{folder} holds another search; choose another sweep.name")
        if not path.exists():
            write_json(path, plain)

    def trials(self) -> list[Trial]:
        """Return all trials in the order of their numbers."""
        with self._held():
            return self._read()

    def ask(
        self,
        wanted: int,
        draw: Callable[[Sequence[Trial], int], dict[str, Any] | None],
        running: Callable[[Trial], bool],
    ) -> Trial | None:
        """Return a trial to run: one that was left, else a new one; None where none is needed.

        Args:
            wanted: trials to complete, pruned ones among them.
            draw: trials so far and a new number -> parameters; None: nothing new is left to try.
            running: whether a process works on a trial, or this one is about to start it.
        """
        with self._held():
            trials = self._read()
            asked = [trial for trial in trials if trial.state == "asked"]
            for trial in asked:
                if not running(trial) and not _waited_for(trial):
                    self._append(_asked(trial.number, trial.params))
                    return trial
            done = sum(trial.state in ("complete", "pruned") for trial in trials)
            failed = sum(trial.state == "failed" for trial in trials)
            if done + len(asked) >= wanted or failed > done + _MOST_FAILED:
                return None
            number = len(trials)
            params = draw(trials, number)
            if params is None:
                return None
            self._append(_asked(number, params))
            return Trial(number, params)

    def tell(
        self,
        number: int,
        state: str,
        values: Sequence[float] = (),
        curve: Mapping[int, float] | None = None,
    ) -> None:
        """Write down what became of a trial; what is known already stays as it is."""
        with self._held():
            if self._read()[number].state != "asked":
                return
            steps = {str(step): value for step, value in (curve or {}).items()}
            event = {"number": number, "state": state, "values": list(values), "curve": steps}
            self._append({"event": "told", **event})

    @contextmanager
    def _held(self) -> Iterator[None]:
        with open_beneath(self.folder / "trials.lock", "a+") as handle:
            while not try_lock(handle.fileno()):
                time.sleep(0.05)
            yield

    def _read(self) -> list[Trial]:
        """Return the trials that the events tell of; a line torn by a kill is cut off."""
        path = self.folder / "trials.jsonl"
        if not path.exists():
            return []
        trials: dict[int, Trial] = {}
        try:
            with open_beneath(path, "a+") as file:
                file.seek(0)
                content = file.read()  # ASCII: as many bytes as characters
                whole = content.rfind("\n") + 1
                if whole < len(content):
                    file.truncate(whole)
            for line in content[:whole].splitlines():
                _apply(trials, json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged: remove the search's folder") from error
        if sorted(trials) != list(range(len(trials))):
            raise UserError(f"{path} is damaged: remove the search's folder")
        return [trials[number] for number in sorted(trials)]

    def _append(self, event: Mapping[str, Any]) -> None:
        with open_beneath(self.folder / "trials.jsonl", "a+") as file:
            file.write(json.dumps(event, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _asked(number: int, params: Mapping[str, Any]) -> dict[str, Any]:
    asker = [socket.gethostname(), os.getpid(), time.time()]
    return {"event": "asked", "number": number, "params": dict(params), "asker": asker}


def _apply(trials: dict[int, Trial], event: Mapping[str, Any]) -> None:
    number = int(event["number"])
    if event["event"] == "asked":
        trial = trials.setdefault(number, Trial(number, dict(event["params"])))
        host, process, when = event["asker"]
        trial.asker = (str(host), int(process), float(when))
        trial.attempts += 1
        return
    trial = trials[number]
    if event["state"] not in STATES:
        raise ValueError(event["state"])
    trial.state = event["state"]
    trial.values = tuple(float(value) for value in event["values"])
    trial.curve = {int(step): float(value) for step, value in event["curve"].items()}


def _waited_for(trial: Trial) -> bool:
    """Whether whoever asked for a trial is about to start it."""
    host, process, when = trial.asker
    if host != socket.gethostname():
        return time.time() - when < _GRACE
    if process == os.getpid():
        return False  # this process knows its own
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return time.time() - when < _GRACE  # its number may be another process's by now
