"""The table of a sweep: kept as sweep.json, written as CSV and Markdown after each cell."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adbench.runs.files import read_json, write_json, write_text
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
    "logical_spro_05": ("spro", "logical", "spro_05"),
    "structural_spro_05": ("spro", "structural", "spro_05"),
}


class SweepTable:
    """States of all cells in ``folder``; survives the controller."""

    def __init__(self, folder: Path, cells: Sequence[Cell]) -> None:
        self.folder = folder
        self.cells = list(cells)
        path = folder / "sweep.json"
        stored = read_json(path)["cells"] if path.is_file() else []
        known = {tuple(entry["overrides"]): entry for entry in stored}
        self.entries = [known.get(cell.overrides) or _entry(cell, "waiting") for cell in self.cells]
        for entry in self.entries:
            if entry["status"] == "running":  # the controller died
                entry["status"] = "interrupted"

    def status(self, cell: Cell) -> str:
        """Return waiting, running, finished, failed or interrupted."""
        return str(self._of(cell)["status"])

    def set_running(self, cell: Cell) -> None:
        self._of(cell)["status"] = "running"
        self.write()

    def set_outcome(self, cell: Cell, outcome: Outcome) -> None:
        entry = self._of(cell)
        entry |= {
            "status": outcome.status,
            "reason": outcome.reason,
            "seconds": round(outcome.seconds, 1),
            "folder": None if outcome.folder is None else outcome.folder.as_posix(),
        }
        if outcome.folder is not None:
            entry["metrics"] = _figures(outcome.folder)
        self.write()

    def _of(self, cell: Cell) -> dict[str, Any]:
        return self.entries[self.cells.index(cell)]

    def counts(self) -> dict[str, int]:
        """Return how many cells are in each state."""
        found: dict[str, int] = {}
        for entry in self.entries:
            found[entry["status"]] = found.get(entry["status"], 0) + 1
        return found

    def write(self) -> None:
        """Write sweep.json, sweep.csv and sweep.md, each in one rename."""
        write_json(self.folder / "sweep.json", {"schema": 1, "cells": self.entries})
        write_text(self.folder / "sweep.csv", self._csv())
        write_text(self.folder / "sweep.md", self.markdown())

    def _csv(self) -> str:
        out = io.StringIO()
        keys = self._keys()
        writer = csv.writer(out, lineterminator="\n")
        names = self._metrics()
        writer.writerow([*keys, "status", *names, "protocol", "seconds", "folder", "reason"])
        for entry in self.entries:
            figures = entry.get("metrics", {})
            writer.writerow(
                [
                    *[entry["values"].get(key, "") for key in keys],
                    entry["status"],
                    *[_text(figures.get(name)) for name in names],
                    figures.get("protocol", ""),
                    entry.get("seconds", ""),
                    entry.get("folder") or "",
                    entry.get("reason") or "",
                ]
            )
        return out.getvalue()

    def _keys(self) -> list[str]:
        return list(dict.fromkeys(key for entry in self.entries for key in entry["values"]))

    def _metrics(self) -> list[str]:
        found = {name for entry in self.entries for name in entry.get("metrics", {})}
        return [*METRICS, *[name for name in SOMETIMES if name in found]]

    def markdown(self) -> str:
        """Return the cells' table, then means and standard deviations over seeds."""
        keys = self._keys()
        names = self._metrics()
        header = [*keys, "status", *names]
        rows = [
            [
                *[entry["values"].get(key, "") for key in keys],
                entry["status"],
                *[_short(entry.get("metrics", {}).get(name)) for name in names],
            ]
            for entry in self.entries
        ]
        text = _markdown(header, rows)
        if "seed" in keys:
            text += "\nmean ± standard deviation over seeds\n\n" + self._over_seeds(keys)
        failed = [entry for entry in self.entries if entry.get("reason")]
        text += "".join(f"\n{entry['values']}: {entry['reason']}\n" for entry in failed)
        return text

    def _over_seeds(self, keys: Sequence[str]) -> str:
        rest = [key for key in keys if key != "seed"]
        groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        for entry in self.entries:
            if entry["status"] == "finished":
                name = tuple(entry["values"].get(key, "") for key in rest)
                groups.setdefault(name, []).append(entry["metrics"])
        names = self._metrics()
        rows = [
            [*values, str(len(found)), *[_spread(found, metric) for metric in names]]
            for values, found in groups.items()
        ]
        return _markdown([*rest, "seeds", *names], rows)


def _entry(cell: Cell, status: str) -> dict[str, Any]:
    return {"overrides": list(cell.overrides), "values": cell.values, "status": status}


def _figures(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    if not path.is_file():
        return {}
    document = read_json(path)
    figures = {name: _at(document, keys) for name, keys in METRICS.items()}
    more = {name: _at(document, keys) for name, keys in SOMETIMES.items() if keys[0] in document}
    return {**figures, **more, "protocol": document["protocol"]}


def _at(document: Mapping[str, Any], keys: Sequence[str]) -> Any:
    found: Any = document
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


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
