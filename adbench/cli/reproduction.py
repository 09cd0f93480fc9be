"""One table to reproduce: plan it, run what is missing, show and judge it beside the paper."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adbench.cli.arguments import Arguments
from adbench.cli.console import print_table, say
from adbench.errors import UserError
from adbench.reports.settings import ReproduceKeys

if TYPE_CHECKING:
    from adbench.reports.comparison import Line, Verdict
    from adbench.reports.expansion import Wanted
    from adbench.reports.measured import Measured
    from adbench.reports.published import Paper, Table
    from adbench.sweeps.grid import Cell


class Request:
    """One table to reproduce, with the cells it expands to."""

    def __init__(
        self,
        paper: Paper,
        table: Table,
        keys: ReproduceKeys,
        arguments: Arguments,
        cells: Sequence[Wanted],
        configs: Mapping[Wanted, dict[str, Any]],
        root: Path,
    ) -> None:
        self.paper, self.table, self.keys = paper, table, keys
        self.arguments, self.cells, self.configs = arguments, cells, configs
        self.root = root.expanduser()
        self.baseline = None if keys.against is None else _baseline(keys.against)

    @property
    def title(self) -> str:
        return f"{self.paper.method} ({self.paper.venue}), {self.table.where}: {self.table.what}"

    @property
    def budget(self) -> str:
        """What ours was made with, in one line; of settings with one preset, the first's."""
        presets = {cell.overrides[0]: self.configs[cell] for cell in reversed(self.cells)}
        told = "; ".join(_budget(word, presets[word]) for word in reversed(presets))
        seeds = ", ".join(map(str, self.keys.seeds))
        return f"ours: scale={self.keys.scale} ({told}); seed {seeds}"

    def planned(self) -> int:
        """Print the cells and what they will take."""
        from adbench.reports.cost import minutes, rates
        from adbench.runs.environment import environment

        known = rates(self.root, str(environment()["device"]))
        if self.keys.probe:
            known += self._probed(known)
        rows, total, unknown = [], 0.0, 0
        finished = self._collected()
        for cell in self.cells:
            for seed in self.keys.seeds:
                took = minutes(self.configs[cell], known)
                done = (cell, seed) in finished
                total += 0.0 if done or took is None else took
                unknown += took is None and not done
                told = "done" if done else "-" if took is None else f"{took:.1f}"
                rows.append([cell.setting, cell.place, cell.category, str(seed), told])
        print(self.title)
        header = ["setting", "pictures", "category", "seed", "minutes"]
        print_table(self.budget, header, rows, plain=True)
        more = f" and {unknown} cells unlike any run here (probe=true measures)" if unknown else ""
        print(f"{len(rows)} cells, about {total:.0f} minutes one after another{more}")
        return 0

    def _probed(self, known: Sequence[Any]) -> list[Any]:
        """Train a few steps of each kind that was never run here; return their rates."""
        import tempfile

        from adbench.cli.main import main
        from adbench.reports.cost import kind_of, rates
        from adbench.runs.environment import environment

        found: list[Any] = []
        for cell, config in self.configs.items():
            if kind_of(config) in [rate.kind for rate in [*known, *found]]:
                continue
            say(f"probing {cell.setting}: 8 steps")
            with tempfile.TemporaryDirectory() as folder:
                short = ["train.steps=8", "train.oracle_every=0", f"run.root={folder}"]
                with contextlib.redirect_stdout(sys.stderr):
                    main(["train", *cell.overrides, *short, "plain=true"])
                found += rates(Path(folder), str(environment()["device"]))
        return found

    def done(self) -> int:
        """Run what is missing, print the table, write it, judge it."""
        from adbench.reports.comparison import compared

        runs = self._comparable(self._collected() if self.keys.collect else self._run())
        lines = compared(
            self.table, self.cells, runs, self.keys.seeds, side_by_side=self.keys.jobs > 1
        )
        if self.keys.collect:  # whatever is done: what nobody ran has no line
            lines = [line for line in lines if line.seeds]
            if not lines:
                raise UserError(f"nothing of {self.paper.id} {self.table.where} below {self.root}")
        text = self._markdown(lines)
        folder = self._folder()
        self._write(folder, lines, runs, text)
        self._show(lines)
        verdicts = self._judged(lines)
        for verdict in verdicts:
            say(
                f"outside: {' '.join(verdict.line.name)}: {verdict.line.ours:.2f}, "
                f"{verdict.against}, {verdict.off:+.2f}"
            )
        print(folder)
        missing = len(self.cells) * len(self.keys.seeds) - len(runs)
        if missing:
            say(f"{missing} cells are not finished")
        return 1 if verdicts or (missing and not self.keys.collect) else 0

    def _comparable(self, runs: Mapping[Any, Measured]) -> dict[Any, Measured]:
        """Leave out, and name, runs that other definitions of the metrics measured."""
        from adbench.reports.measured import outdated

        for run in filter(outdated, runs.values()):
            say(
                f"left out: {run.folder}: measured by version {run.facts['metrics']} of the metrics"
            )
        return {name: run for name, run in runs.items() if not outdated(run)}

    def _folder(self) -> Path:
        from adbench.cli.sweep import sweep_folder

        words = [word for cell in self.cells for word in cell.overrides]
        digest = hashlib.sha256("\n".join(map(str, [*words, *self.keys.seeds])).encode())
        table = self.table.id.replace("/", "-")
        name = f"reproduce-{self.paper.id}-{table}-{self.keys.scale}-{digest.hexdigest()[:8]}"
        return sweep_folder(str(self.root), name)

    def _sweep_cells(self) -> dict[tuple[Wanted, int], Cell]:
        from adbench.sweeps.grid import Cell

        return {
            (cell, seed): Cell(
                (*cell.overrides, f"seed={seed}"),
                {"setting": cell.setting, "place": cell.category, "seed": str(seed)},
            )
            for cell in self.cells
            for seed in self.keys.seeds
        }

    def _run(self) -> dict[tuple[Wanted, int], Measured]:
        """Run the cells that are not finished; return what all of them measured."""
        from adbench.cli.sweep import run_cells
        from adbench.config.schema import SweepKeys
        from adbench.reports.measured import read_measured
        from adbench.sweeps.table import SweepTable

        cells = self._sweep_cells()
        table = SweepTable(self._folder(), list(cells.values()))
        keys = SweepKeys(jobs=self.keys.jobs, timeout_minutes=self.keys.timeout_minutes)
        run_cells(table, keys, self.arguments, plain=bool(self.configs[self.cells[0]]["plain"]))
        entries = {tuple(entry["overrides"]): entry for entry in table.entries}
        found = {}
        for name, cell in cells.items():
            entry = entries[cell.overrides]
            run = read_measured(Path(entry["folder"])) if entry["status"] == "finished" else None
            if run is not None:
                found[name] = run
            elif entry.get("reason"):
                say(f"{cell.values}: {entry['reason']}")
        return found

    def _collected(self) -> dict[tuple[Wanted, int], Measured]:
        """Return what is finished below the root, whoever ran it."""
        from adbench.reports.measured import read_measured, same_request
        from adbench.runs.registry import run_folders

        folders = list(run_folders(self.root))
        found = {}
        for name, cell in self._sweep_cells().items():
            for folder in folders:
                if same_request(cell.overrides, folder):
                    run = read_measured(folder)
                    if run is not None:
                        found[name] = run
        return found

    def _show(self, lines: Sequence[Line]) -> None:
        from adbench.reports.comparison import HEADER, table_rows

        print(self.title)
        plain = bool(self.configs[self.cells[0]]["plain"])
        print_table(self.budget, HEADER, table_rows(lines), plain=plain)
        for note in self._notes(lines):
            print(note)

    def _notes(self, lines: Sequence[Line]) -> list[str]:
        """Return the caveats, and what the signs of the table mean."""
        names = [each for each in self.table.caveats if each != "mean"]
        notes = [f"paper: {self.paper.caveats[name]}" for name in names]
        told = self.table.reproduce
        notes += [f"not reproduced: {told.why}"] if told.why and told.answer == "partly" else []
        notes += [
            f"misprint: {d.row}, {d.column}, {d.metric}: {d.printed} printed, {d.computed} "
            + (f"in Table {d.table}" if d.table else "by its rows")
            for d in self.table.differs
            if not d.rounding
        ]
        if not all(line.alike for line in lines):
            notes.append("* the print is of other pictures than ours: shown, not judged")
        if any(line.side_by_side for line in lines):
            notes.append("~ from cells that ran side by side: not comparable")
        notes.append("paper protocol: best epoch on the test set, and the paper's own PRO")
        return notes

    def _markdown(self, lines: Sequence[Line]) -> str:
        from adbench.reports.comparison import HEADER, table_rows
        from adbench.reports.tables import markdown_table

        table = markdown_table(HEADER, table_rows(lines))
        notes = "\n".join(f"- {note}" for note in self._notes(lines))
        return f"{self.title}\n\n{self.budget}\n\n{table}\n{notes}\n"

    def _write(
        self,
        folder: Path,
        lines: Sequence[Line],
        runs: Mapping[tuple[Wanted, int], Measured],
        text: str,
    ) -> None:
        from adbench.reports.comparison import document
        from adbench.runs.files import write_json, write_text

        head = {
            "paper": self.paper.id,
            "table": self.table.id,
            "scale": self.keys.scale,
            "budget": self.budget,
            "tolerance": self.keys.tolerance,
            "caveats": self._notes(lines),
        }
        found = document(head, lines, runs)
        write_json(folder / "result.json", found)
        write_text(folder / "result.md", text)
        if self.keys.save is not None:
            write_json(Path(self.keys.save).expanduser(), found)
        if self.keys.archive is not None:
            from adbench.reports.archive import write_archive

            folders = [run.folder for run in runs.values()]
            write_archive(Path(self.keys.archive).expanduser(), folder, folders)

    def _judged(self, lines: Sequence[Line]) -> list[Verdict]:
        from adbench.reports.comparison import drifted, outside

        if self.baseline is not None:
            return drifted(lines, self.baseline, self.keys.tolerance or 0.01)
        return [] if self.keys.tolerance is None else outside(lines, self.keys.tolerance)


def _baseline(path: str) -> dict[str, Any]:
    """Return a baseline of our own figures; read before anything is trained.

    Raises:
        UserError: the file is missing, or is none.
    """
    from adbench.metrics import VERSION
    from adbench.runs.files import read_json

    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"against={path}: no such file; save=FILE writes a baseline")
    stored = read_json(file)
    if not isinstance(stored, dict) or not isinstance(stored.get("lines"), list):
        raise UserError(f"against={path}: no baseline; save=FILE writes one")
    cells = [cell for cell in stored.get("cells", []) if isinstance(cell, dict)]
    other = {str(cell.get("metrics", VERSION)) for cell in cells} - {str(VERSION)}
    if other:
        raise UserError(
            f"against={path}: figures by version {', '.join(sorted(other))} of the metrics, ours "
            f"by version {VERSION}: save=FILE writes it anew"
        )
    return stored


def _budget(preset: str, config: Mapping[str, Any]) -> str:
    """Return what a training is given, in words."""
    train = config["train"]
    length = [f"{train[key]} {key}" for key in ("steps", "epochs", "minutes") if train[key]]
    return (
        f"{preset}: at most {' and '.join(length) or 'no training'}, batch "
        f"{train['batch_size']}, {config['dataset']['image_size']} px, backbone "
        f"{config['backbone']['name']}"
    )
