"""The table of a sweep: kept as sweep.json, written as CSV and Markdown after each cell."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adbench.errors import UserError
from adbench.runs.files import read_record, write_beside, write_json, write_text
from adbench.sweeps.engine import Outcome
from adbench.sweeps.grid import Cell

METRICS: dict[str, tuple[str, ...]] = {
    "image_auroc": ("image", "auroc"),
    "image_ap": ("image", "ap"),
    "pixel_auroc": ("pixel", "auroc"),
    "pixel_ap": ("pixel", "ap"),
    "aupro_30": ("pixel", "aupro_30"),
    "aupro_05": ("pixel", "aupro_05"),
}
# Columns of the cells that have them: anomalies of data sets that tell kinds apart.
SOMETIMES: dict[str, tuple[str, ...]] = {
    "logical_image_auroc": ("by_kind", "logical", "image", "auroc"),
    "structural_image_auroc": ("by_kind", "structural", "image", "auroc"),
    "kinds_image_auroc": ("by_kind", "mean", "image", "auroc"),
    "logical_spro_05": ("spro", "logical", "spro_05"),
    "structural_spro_05": ("spro", "structural", "spro_05"),
    "kinds_spro_05": ("spro", "mean", "spro_05"),
    "pro_glass": ("pixel", "pro_glass"),
    "pro_glad": ("pixel", "pro_glad"),
    "pro_realnet": ("pixel", "pro_realnet"),
}


class SweepTable:
    """States of all cells, one file each below ``folder``; controllers may share them.

    The run folders are the truth: a cell is finished where its folder says so. What was read is
    kept until its file changes, and the tables are written as often as that costs a small share
    of the time, so that a sweep's bookkeeping grows with its cells and not with their square.

    Args:
        growing: cells are added while the sweep goes on: those of a search.

    Raises:
        UserError: the folder holds another grid.
    """

    def __init__(self, folder: Path, cells: Sequence[Cell], *, growing: bool = False) -> None:
        self.folder = folder
        self._cells = {cell.id: cell for cell in cells}
        self.begun = time.time()
        self._known: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {}
        self._counts: Counter[str] = Counter({"waiting": len(self._cells)})
        self._changed = True
        self._next_write = 0.0
        grid = [list(cell.overrides) for cell in self.cells]
        stored = _stored_grid(folder)
        if stored is not None and stored != grid and not growing:
            raise UserError(
                f"{folder} holds another grid ({_compared(stored, grid)}); "
                "choose another sweep.name"
            )

    @property
    def cells(self) -> list[Cell]:
        return list(self._cells.values())

    def add(self, cell: Cell) -> None:
        """Take a further cell; one that is here already stays once."""
        if cell.id not in self._cells:
            self._cells[cell.id] = cell
            self._counts["waiting"] += 1

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What is known of each cell, in their order."""
        return [self._of(cell) for cell in self._cells.values()]

    def entry(self, cell: Cell) -> dict[str, Any]:
        """What is known of a cell."""
        return self._of(cell)

    def latest(self, count: int) -> list[dict[str, Any]]:
        """Return the last entries."""
        return [self._of(cell) for cell in itertools.islice(reversed(self._cells.values()), count)]

    def status(self, cell: Cell) -> str:
        """Return waiting, running, finished, failed or interrupted."""
        return str(self._of(cell)["status"])

    def set_running(self, cell: Cell) -> None:
        self._put(cell, {**_entry(cell, "running"), "controller": os.getpid()})

    def set_outcome(self, cell: Cell, outcome: Outcome) -> None:
        entry = {
            **_entry(cell, outcome.status),
            "reason": outcome.reason,
            "seconds": round(outcome.seconds, 1),
            "folder": None if outcome.folder is None else outcome.folder.as_posix(),
            "ended": time.time(),
        }
        self._put(cell, entry)

    def ended_meanwhile(self, cell: Cell) -> bool:
        """Whether another controller has settled the cell since this one began."""
        ended = self._of(cell).get("ended")
        return isinstance(ended, int | float) and ended >= self.begun

    def settle_dead(self, alive: Callable[[Cell], bool]) -> None:
        """Mark cells as interrupted that say they run and whose processes are gone."""
        for cell in self.cells:
            if self.status(cell) == "running" and not alive(cell):
                self._put(cell, {**_entry(cell, "interrupted"), "reason": "its controller died"})

    def _of(self, cell: Cell) -> dict[str, Any]:
        """Return what the cell's file says, read anew where it has changed."""
        path = self.folder / "cells" / f"{cell.id}.json"
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
        except OSError:
            stamp = (0, 0)
        stored, entry = self._known.get(cell.id, (None, {"status": "waiting"}))
        if stored != stamp:
            self._counts[entry["status"]] -= 1
            entry = self._read(cell, path) if stamp[1] else _entry(cell, "waiting")
            self._counts[entry["status"]] += 1
            self._known[cell.id] = (stamp, entry)
            self._changed = True
        return entry

    @staticmethod
    def _read(cell: Cell, path: Path) -> dict[str, Any]:
        try:
            entry = read_record(path)
        except UserError:  # torn: the run folder tells
            entry = {}
        if entry.get("status") not in _STATES:
            return _entry(cell, "waiting")
        entry |= {"overrides": cell.overrides, "values": cell.values}
        if entry["status"] == "finished":
            figures = _figures(Path(str(entry.get("folder"))))
            if figures is None:  # the folder is gone, or no longer whole
                return _entry(cell, "waiting")
            entry["metrics"] = figures
        return entry

    def _put(self, cell: Cell, entry: Mapping[str, Any]) -> None:
        write_json(self.folder / "cells" / f"{cell.id}.json", entry)
        self._of(cell)

    def counts(self) -> dict[str, int]:
        """Return how many cells are in each state, as far as this controller has heard."""
        return {status: self._counts[status] for status in _STATES if self._counts[status]}

    def write_in_time(self) -> None:
        """Write the tables where they have changed and writing them costs little of the time."""
        if self._changed and time.monotonic() >= self._next_write:
            self.write()

    def write(self) -> None:
        """Write sweep.json, sweep.csv and sweep.md, each in one rename."""
        start = time.monotonic()
        entries = self.entries
        self._changed = False
        write_json_rows(self.folder / "sweep.json", {"schema": 2}, "cells", entries)
        write_text(self.folder / "sweep.csv", _csv(entries))
        write_text(self.folder / "sweep.md", _tables(entries))
        end = time.monotonic()
        self._next_write = end + _IDLE * (end - start)

    def markdown(self) -> str:
        """Return the cells' table, then means and standard deviations over seeds."""
        return _tables(self.entries)


_IDLE = 20  # writing the tables takes at most one part in so many of a sweep's time


def write_json_rows(
    path: Path, head: Mapping[str, Any], name: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write a document with a long list, a line a row, without holding all of its text."""
    with write_beside(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        out.write("{\n")
        out.writelines(f"  {json.dumps(key)}: {json.dumps(head[key])},\n" for key in head)
        out.write(f"  {json.dumps(name)}: [\n")
        for number, row in enumerate(rows):
            comma = "," if number + 1 < len(rows) else ""
            out.write(f"    {json.dumps(row, allow_nan=False)}{comma}\n")
        out.write("  ]\n}\n")


def _csv(entries: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    keys = _keys(entries)
    writer = csv.writer(out, lineterminator="\n")
    names = _metrics(entries)
    writer.writerow([*keys, "status", *names, "protocol", "marks", "seconds", "folder", "reason"])
    for entry in entries:
        figures = entry.get("metrics", {})
        writer.writerow(
            [
                *[entry["values"].get(key, "") for key in keys],
                entry["status"],
                *[_text(figures.get(name)) for name in names],
                figures.get("protocol", ""),
                figures.get("marks", ""),
                entry.get("seconds", ""),
                entry.get("folder") or "",
                entry.get("reason") or "",
            ]
        )
    return out.getvalue()


def _keys(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for entry in entries for key in entry["values"]))


def _metrics(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    found = {name for entry in entries for name in entry.get("metrics", {})}
    return [*METRICS, *[name for name in SOMETIMES if name in found]]


def _tables(entries: Sequence[Mapping[str, Any]]) -> str:
    keys = _keys(entries)
    names = _metrics(entries)
    header = [*keys, "status", *names]
    rows = [
        [
            *[entry["values"].get(key, "") for key in keys],
            entry["status"],
            *[_short(entry.get("metrics", {}).get(name)) for name in names],
        ]
        for entry in entries
    ]
    text = _markdown(header, rows)
    if "dataset.category" in keys:
        text += f"\n{_MEAN_OF_MEANS}\n\n" + _over_categories(entries, keys)
    if "seed" in keys:
        text += "\nmean ± standard deviation over seeds\n\n" + _over_seeds(entries, keys)
    told = dict.fromkeys(entry["metrics"].get("marks") for entry in entries if "metrics" in entry)
    text += "".join(f"\n{line}\n" for line in told if line)
    failed = [entry for entry in entries if entry.get("reason")]
    text += "".join(f"\n{entry['values']}: {entry['reason']}\n" for entry in failed)
    return text


_MEAN_OF_MEANS = "mean over categories of each seed, then mean ± standard deviation over seeds"


def _over_categories(entries: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    """Return one line a row: means over categories, as all tables of the papers have them.

    A seed of which a category is not finished is left out, and said.
    """
    rest = [key for key in keys if key not in ("seed", "dataset.category")]
    categories = {entry["values"].get("dataset.category", "") for entry in entries}
    names = _metrics(entries)
    rows = []
    for values, found in _grouped(entries, rest).items():
        seeds = _grouped(found, ["seed"])
        whole = [
            [entry["metrics"] for entry in each if entry["status"] == "finished"]
            for each in seeds.values()
        ]
        whole = [each for each in whole if len(each) == len(categories)]
        means = [{name: _mean(each, name) for name in names} for each in whole]
        told = f"{len(whole)} of {len(seeds)}"
        rows.append([*values, told, *[_spread(means, metric) for metric in names]])
    return _markdown([*rest, f"seeds with all {len(categories)} categories", *names], rows)


def _grouped(
    entries: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> dict[tuple[str, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for entry in entries:
        name = tuple(entry["values"].get(key, "") for key in keys)
        groups.setdefault(name, []).append(entry)
    return groups


def _mean(found: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    values = [entry[metric] for entry in found if entry.get(metric) is not None]
    return statistics.mean(values) if values else None


def _over_seeds(entries: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    rest = [key for key in keys if key != "seed"]
    finished = [entry for entry in entries if entry["status"] == "finished"]
    names = _metrics(entries)
    rows = []
    for values, found in _grouped(finished, rest).items():
        figures = [entry["metrics"] for entry in found]
        rows.append([*values, str(len(found)), *[_spread(figures, metric) for metric in names]])
    return _markdown([*rest, "seeds", *names], rows)


def _entry(cell: Cell, status: str) -> dict[str, Any]:
    return {"overrides": cell.overrides, "values": cell.values, "status": status}


_STATES = ("waiting", "running", "finished", "failed", "interrupted", "pruned")


def _stored_grid(folder: Path) -> list[list[str]] | None:
    path = folder / "sweep.json"
    if not path.is_file():
        return None
    cells = read_record(path).get("cells")
    if not isinstance(cells, list) or not all(isinstance(each, dict) for each in cells):
        raise UserError(f"{path} is damaged; delete it or choose another sweep.name")
    return [[str(word) for word in each.get("overrides", [])] for each in cells]


def _compared(stored: Sequence[Sequence[str]], grid: Sequence[Sequence[str]]) -> str:
    words = {word for cell in stored for word in cell}
    now = {word for cell in grid for word in cell}
    gone, new = sorted(words - now)[:3], sorted(now - words)[:3]
    told = [f"it has {', '.join(gone)}"] if gone else []
    told += [f"not {', '.join(new)}"] if new else []
    return "; ".join(told) or f"{len(stored)} cells, not {len(grid)}"


def _figures(folder: Path) -> dict[str, Any] | None:
    """Return the table's figures of a finished run; None where the folder holds none."""
    try:
        record = read_record(folder / "run.json")
        if record.get("status") != "finished":
            return None
        document = read_record(folder / "metrics.json")
    except (UserError, OSError):
        return None
    figures = {name: _at(document, keys) for name, keys in METRICS.items()}
    more = {name: _at(document, keys) for name, keys in SOMETIMES.items()}
    return {
        **figures,
        **{name: value for name, value in more.items() if value is not None},
        "protocol": document.get("protocol"),
        "marks": "; ".join([*map(str, document.get("marks") or []), *_sources(record)]),
    }


def _sources(record: Mapping[str, Any]) -> list[str]:
    """Return what the synthetic anomalies were made of, as far as the run says."""
    made_of = record.get("synthesis")
    if not isinstance(made_of, Mapping):
        return []
    return [f"{name} {value}" for name, value in made_of.items()]


def _at(document: Mapping[str, Any], keys: Sequence[str]) -> Any:
    found: Any = document
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, int | float) else None


def _spread(found: Sequence[Mapping[str, Any]], metric: str) -> str:
    values = [float(entry[metric]) for entry in found if entry.get(metric) is not None]
    if not values:
        return "-"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


def _text(value: float | None) -> str:
    return "" if value is None else repr(value)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
