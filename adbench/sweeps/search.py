"""Runs the trials of a search as cells, and reads from their run folders what they reached."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adbench.config.schema import TEST_OBJECTIVES, SearchKeys, Settings
from adbench.errors import UserError
from adbench.runs.files import read_record, write_json, write_text
from adbench.sweeps.advisor import Advisor
from adbench.sweeps.engine import Outcome
from adbench.sweeps.grid import Cell
from adbench.sweeps.progress import Progress
from adbench.sweeps.study import Study, Trial
from adbench.sweeps.table import SweepTable

_KINDS = ("good", "defective", "unlabelled")


def check_objectives(search: SearchKeys, config: Settings) -> None:
    """Refuse a search that would choose on the test set under the honest protocol.

    Raises:
        UserError: names the objective.
    """
    if config.protocol == "paper":
        return
    for name in search.objectives:
        if name in TEST_OBJECTIVES:
            raise UserError(
                f"sweep.search.objectives: {name} is a figure of the test set, which "
                "protocol=honest does not choose by; take validation, or protocol=paper"
            )


class Search(Progress):
    """What an engine reports to while it runs trials.

    Args:
        study: the trials so far.
        advisor: what to try next.
        fixed: overrides of every trial.
        place: overrides of a trial -> its run folders, which need not exist yet.
        running: whether a process works on a cell.
    """

    def __init__(
        self,
        table: SweepTable,
        say: Callable[[str], None],
        *,
        live: bool,
        study: Study,
        advisor: Advisor,
        fixed: Sequence[str],
        place: Callable[[Sequence[str]], list[Path]],
        running: Callable[[Cell], bool],
    ) -> None:
        super().__init__(table, say, live=live, retry_failed=True)
        self.study, self.advisor, self.fixed = study, advisor, tuple(fixed)
        self.place, self.running = place, running
        self._own: dict[str, Trial] = {}  # cell -> trial that this process works on
        for trial in study.trials():
            table.add(self.cell(trial))

    @property
    def keys(self) -> SearchKeys:
        return self.advisor.keys

    def cell(self, trial: Trial) -> Cell:
        """Return the cell of a trial."""
        changed = {key: word_of(value) for key, value in trial.params.items()}
        words = [f"{key}={value}" for key, value in changed.items()]
        return Cell((*self.fixed, *words), {"trial": str(trial.number), **changed})

    def more(self, room: int) -> Sequence[Cell]:
        """Return up to ``room`` trials to run."""
        found: list[Cell] = []
        while len(found) < room:
            trial = self.study.ask(self.keys.trials, self.advisor.draw, self._worked_on)
            if trial is None:
                break
            cell = self.cell(trial)
            self._own[cell.id] = trial
            self.table.add(cell)
            found.append(cell)
        return found

    def _worked_on(self, trial: Trial) -> bool:
        cell = self.cell(trial)
        return cell.id in self._own or self.running(cell)

    def unsettled(self) -> bool:
        """Whether trials are missing that other controllers work on: they may yet be killed."""
        trials = self.study.trials()
        done = sum(trial.state in ("complete", "pruned") for trial in trials)
        return done < self.keys.trials and any(trial.state == "asked" for trial in trials)

    def due(self, cell: Cell) -> bool:
        """Whether a trial is still to be run; another controller may have done so meanwhile."""
        trial = self._own.get(cell.id)
        state = None if trial is None else self.study.trials()[trial.number].state
        if state != "asked":
            self._own.pop(cell.id, None)
        return state == "asked"

    def hopeless(self, cell: Cell) -> str | None:
        """Why a running trial is given up, by its honest validation signal so far."""
        curve = self._curve(cell)
        return self.advisor.hopeless(self.study.trials(), curve) if curve else None

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        trial = self._own.pop(cell.id)
        state, values = self._reached(cell, outcome)
        if state is not None:
            self.study.tell(trial.number, state, values, self._curve(cell))
        super().ended(cell, outcome)
        self.write()

    def _reached(self, cell: Cell, outcome: Outcome) -> tuple[str | None, Sequence[float]]:
        """Return the trial's state and values; None for a state: it is to be run again."""
        if outcome.status == "pruned":
            return "pruned", ()
        if outcome.status == "interrupted":
            return None, ()
        values = objective_values(self.place(cell.overrides), self.keys.objectives)
        if outcome.status == "finished" and values is not None:
            return "complete", values
        return "failed", ()

    def _curve(self, cell: Cell) -> dict[int, float]:
        """Return epoch -> mean signal over categories, of the epochs that all of them have."""
        name = self.keys.objectives[0]
        curves = [read_curve(folder / "history.csv", name) for folder in self.place(cell.overrides)]
        steps = set.intersection(*[set(curve) for curve in curves]) if curves else set()
        return {step: sum(c[step] for c in curves) / len(curves) for step in sorted(steps)}

    def write(self) -> None:
        """Write search.json and search.md: what was reached, and what of the keys mattered."""
        trials = self.study.trials()
        best = self.advisor.best(trials)
        importance = self.advisor.importance(trials)
        write_json(self.table.folder / "search.json", _document(self.keys, trials, importance))
        write_text(self.table.folder / "search.md", _text(self.keys, trials, best, importance))


def objective_values(folders: Sequence[Path], names: Sequence[str]) -> tuple[float, ...] | None:
    """Return the objectives' means over run folders; None where one of them lacks a figure.

    Of the test set nothing is read but what ``names`` asks for.
    """
    found = []
    for folder in folders:
        try:
            document = read_record(folder / "metrics.json")
        except (UserError, OSError):
            return None
        values = [_value(document, name) for name in names]
        if any(value is None for value in values):
            return None
        found.append([float(value) for value in values if value is not None])
    if not found:
        return None
    return tuple(sum(column) / len(found) for column in zip(*found, strict=True))


def read_curve(path: Path, name: str) -> dict[int, float]:
    """Return epoch -> signal of a training that may be under way; lines it cannot read are left."""
    wanted = [name] if name != "validation" else ["val_image_auroc", "val_pixel_ap"]
    if not path.is_file() or not name.startswith("val"):
        return {}
    found: dict[int, float] = {}
    with open(path, newline="", encoding="utf-8", errors="replace") as lines:
        for row in csv.DictReader(lines):
            try:
                value = sum(float(row[column]) for column in wanted)
                step = int(float(row["epoch"]))
            except (KeyError, TypeError, ValueError):
                continue
            if math.isfinite(value):
                found[step] = value
    return found


def _value(document: Mapping[str, Any], name: str) -> float | None:
    if name in ("validation", "val_image_auroc", "val_pixel_ap"):
        return _at(document, "validation", "criterion" if name == "validation" else name)
    if name == "images_per_second":
        images = sum(_at(document, "counts", kind) or 0 for kind in _KINDS)
        seconds = _at(document, "seconds", "inference")
        return images / seconds if seconds else None
    section = "image" if name == "image_auroc" else "pixel"
    return _at(document, section, "aupro_30" if name == "aupro_30" else "auroc")


def _at(document: Mapping[str, Any], section: str, key: str) -> float | None:
    part = document.get(section)
    value = part.get(key) if isinstance(part, Mapping) else None
    usable = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if usable else None  # type: ignore[arg-type]


def word_of(value: Any) -> str:
    """Return a value as it is typed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def _document(
    keys: SearchKeys, trials: Sequence[Trial], importance: Mapping[str, float]
) -> dict[str, Any]:
    return {
        "schema": 1,
        "objectives": list(keys.objectives),
        "importance": dict(importance),
        "trials": [
            {"number": t.number, "params": t.params, "state": t.state, "values": list(t.values)}
            for t in trials
        ],
    }


def _text(
    keys: SearchKeys,
    trials: Sequence[Trial],
    best: Sequence[Trial],
    importance: Mapping[str, float],
) -> str:
    counts = {
        state: sum(trial.state == state for trial in trials)
        for state in ("complete", "pruned", "failed", "asked")
    }
    lines = [", ".join(f"{count} {state}" for state, count in counts.items()), ""]
    lines += [f"best by {', '.join(keys.objectives)}:", ""]
    for trial in best:
        reached = ", ".join(f"{value:.4f}" for value in trial.values)
        params = " ".join(f"{key}={word_of(value)}" for key, value in trial.params.items())
        lines.append(f"- trial {trial.number}: {reached}: `{params}`")
    if importance:
        lines += ["", "importance (PED-ANOVA):", ""]
        lines += [f"- {key}: {share:.2f}" for key, share in importance.items()]
    return "\n".join(lines) + "\n"
