"""What a sweep's own bookkeeping costs: a controller over thousands of cells that do nothing.

    python benchmarks/sweeps.py              2000 cells: seconds for each thousand, memory, files
    python benchmarks/sweeps.py --cells 10000
    python benchmarks/sweeps.py --overhead   seconds of a real cell whose fit is empty, by phase

Cells of the first kind write the two files that a table reads and end at once, so that all that is
measured is the controller: claims, states, tables.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from adbench.sweeps.attempt import Ended
from adbench.sweeps.claims import Claims
from adbench.sweeps.engine import Engine
from adbench.sweeps.grid import grid
from adbench.sweeps.progress import Progress
from adbench.sweeps.table import SweepTable


class Empty:
    """A launcher whose cells have ended before they begin."""

    remote, pause = False, 0.0

    def __init__(self, root: Path, jobs: int = 8):
        self.root, self.jobs = root, jobs

    def start(self, cells, claims):
        return [_EmptyJob(self._written(cell)) for cell in cells]

    def _written(self, cell):
        folder = self.root / "m" / "d" / "c" / f"seed{cell.values['seed']}"
        folder.mkdir(parents=True)
        figures = {"auroc": 0.9, "ap": 0.8, "aupro_30": 0.7}
        document = {"image": figures, "pixel": figures, "protocol": "honest"}
        (folder / "metrics.json").write_text(json.dumps(document))
        (folder / "run.json").write_text(json.dumps({"status": "finished"}))
        return str(folder)

    def close(self):
        pass


class _EmptyJob:
    def __init__(self, folder):
        self.folder = folder

    def poll(self):
        return Ended("finished", self.folder)

    def stop(self):
        pass


class Timed(Progress):
    """Notes the time at every thousandth cell."""

    def __init__(self, table):
        super().__init__(table, lambda _: None, live=False, retry_failed=True)
        self.done, self.marks, self.writes = 0, [time.perf_counter()], 0.0

    def rest(self):
        start = time.perf_counter()
        super().rest()
        self.writes += time.perf_counter() - start

    def ended(self, cell, outcome):
        super().ended(cell, outcome)
        self.done += 1
        if self.done % 500 == 0:
            self.marks.append(time.perf_counter())


def simulated(cells: int, folder: Path) -> dict:
    """Run a sweep of empty cells; return seconds, memory and files."""
    table = SweepTable(
        folder / "sweeps" / "s",
        grid(["model=glass", "dataset=mvtec"], {"seed": map(str, range(cells))}),
    )
    told = Timed(table)
    before = time.perf_counter()
    table.write()
    Engine(Empty(folder), Claims(table.folder / "cells")).run(table.cells, told)
    table.write()
    total = time.perf_counter() - before
    assert table.counts() == {"finished": cells}
    spans = [b - a for a, b in zip(told.marks, told.marks[1:], strict=False)]
    own = [path for path in table.folder.rglob("*") if path.is_file()]
    return {
        "cells": cells,
        "seconds": round(total, 1),
        "ms_per_cell": [round(2 * span, 2) for span in spans],
        "writing_tables": f"{told.writes / total:.1%}",
        "peak_MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "files_per_cell": round(len(own) / cells, 2),
        "sweep_json_MB": round((table.folder / "sweep.json").stat().st_size / 1e6, 2),
    }


def overhead(folder: Path) -> dict:
    """Run cells whose fit is empty; return the median wall time and what of it the run counts."""
    words = [
        *("dataset=demo", "dataset.category=metal", "model=padim", "backbone=bundled"),
        *("dataset.limit=4", "dataset.image_size=64", "images.save=0", "train.epochs=1"),
        *("hardware=cpu", "hardware.threads=1", "plain=true", f"run.root={folder}"),
        "threshold.folds=0",  # cross-fitting would be five more fits
    ]
    walls, inside = [], []
    for seed in range(4):  # the first one also draws the pictures and warms the disk
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "adbench", "train", *words, f"seed={seed}"],
            capture_output=True,
            text=True,
            check=True,
        )
        walls.append(time.perf_counter() - start)
        record = json.loads((Path(done.stdout.split()[-1]) / "run.json").read_text())
        inside.append(record["seconds"])
    order = sorted(range(1, 4), key=lambda i: walls[i])[1]
    return {"wall": round(walls[order], 2), "first": round(walls[0], 2), "phases": inside[order]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--overhead", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = overhead(Path(place)) if given.overhead else simulated(given.cells, Path(place))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
