"""``adbench sweep`` and ``adbench train ... --multirun``: one controller for both."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adbench.cli.arguments import Arguments, parsed_arguments
from adbench.cli.console import say
from adbench.cli.help import group_help
from adbench.errors import UserError

if TYPE_CHECKING:
    from adbench.sweeps.grid import Cell
    from adbench.sweeps.table import SweepTable


def usage() -> str:
    """Return the text of ``adbench sweep --help``."""
    return group_help(
        "adbench sweep key=a,b,c key=value ... [--config-dir FOLDER]",
        "Every combination is a process and a run folder of its own. Finished cells are skipped,\n"
        "failed ones recorded while the rest go on; the same command goes on after Ctrl-C.\n"
        "Table: ROOT/sweeps/NAME/sweep.csv and sweep.md, written after each cell.",
        (
            "seed=1,2,3                 several values make cells; ranges: seed=range(0,5)",
            "dataset.category=all       one cell per category",
            "sweep=NAME                 rows of a paper's table, combined with all other values",
            "sweep.name=NAME            folder of the table",
            "sweep.jobs=1               cells at a time",
            "sweep.threads=N            torch threads per cell",
            "sweep.timeout_minutes=N    stop a cell after so long",
            "sweep.retry_failed=true    try failed cells again",
        ),
        also=("sweep",),
    )


def run(words: Sequence[str]) -> int:
    """Run a grid; the last line on stdout is the sweep's folder; 1 where a cell failed."""
    arguments = parsed_arguments(words)
    from adbench.config.compose import compose_config, parse_overrides
    from adbench.sweeps.grid import grid, split_overrides
    from adbench.sweeps.table import SweepTable

    own = [word for word in arguments.overrides if word.startswith(("sweep.", "sweep="))]
    rest = [word for word in arguments.overrides if word not in own]
    keys = compose_config("sweep", own, arguments.config_dir)["sweep"]
    rows: dict[str, list[str]] = keys["rows"] or {}
    fixed, swept = split_overrides(parse_overrides(rest))
    for overrides in rows.values() or [[]]:  # a wrong key is told before the first cell
        chosen = [*fixed, *overrides, *_first(swept)]
        first = compose_config("train", chosen, arguments.config_dir)
    known: dict[tuple[str, ...], list[str]] = {}
    cells = [
        each
        for cell in grid(fixed, swept, rows)
        for each in by_category(cell, arguments.config_dir, known)
    ]
    if len(cells) == 1 and not cells[0].values:
        raise UserError("nothing to sweep: give a key several values, e.g. seed=1,2,3")
    name = keys["name"] or _hash_of([*rest, *map(str, rows.items())])
    folder = Path(first["run"]["root"]) / "sweeps" / str(name)
    table = SweepTable(folder, cells)
    table.write()
    waiting = [cell for cell in cells if _due(table.status(cell), keys)]
    say(f"{len(cells)} cells, {len(cells) - len(waiting)} done before; table: {folder}/sweep.md")
    _run_cells(table, waiting, keys, arguments, plain=bool(first["plain"]))
    print(table.markdown())
    print(folder)
    return 1 if table.counts().get("failed") else 0


def _hash_of(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]


def _first(swept: dict[str, list[str]]) -> list[str]:
    return [f"{key}={values[0]}" for key, values in swept.items()]


def _due(status: str, keys: dict[str, Any]) -> bool:
    return status != "finished" and (status != "failed" or bool(keys["retry_failed"]))


def by_category(
    cell: Cell, config_dir: Path | None, known: dict[tuple[str, ...], list[str]]
) -> list[Cell]:
    """Return one cell per category where a cell asks for several, each with a model of its own.

    Args:
        known: categories found before, by the overrides that they depend on.
    """
    from adbench.sweeps.grid import Cell

    deciding = tuple(w for w in cell.overrides if w.startswith(("dataset", "experiment", "model")))
    if deciding not in known:
        known[deciding] = _categories(cell, config_dir)
    kept = [w for w in cell.overrides if not w.startswith("dataset.category=")]
    return [
        Cell((*kept, f"dataset.category={name}"), {**cell.values, "dataset.category": name})
        for name in known[deciding]
    ] or [cell]


def _categories(cell: Cell, config_dir: Path | None) -> list[str]:
    from adbench.config.compose import compose_config

    section = compose_config("train", cell.overrides, config_dir)["dataset"]
    category = section["category"]
    if section["multiclass"] or not (category == "all" or isinstance(category, list)):
        return []
    from adbench.config.schema import DatasetKeys, from_mapping
    from adbench.training.data import chosen_categories

    return chosen_categories(from_mapping(DatasetKeys, section, "dataset"))


def _run_cells(
    table: SweepTable,
    waiting: Sequence[Cell],
    keys: dict[str, Any],
    arguments: Arguments,
    *,
    plain: bool,
) -> None:
    from adbench.sweeps.engine import LocalEngine, Outcome

    flags = arguments.forwarded()
    if keys["threads"] is not None:
        flags = [f"hardware.threads={keys['threads']}", *flags]
    engine = LocalEngine(
        table.folder / "logs",
        flags=flags,
        jobs=keys["jobs"],
        timeout=None if keys["timeout_minutes"] is None else keys["timeout_minutes"] * 60,
    )
    live = None if plain or not os.isatty(sys.stderr.fileno()) else _live()

    def ended(cell: Cell, outcome: Outcome) -> None:
        table.set_outcome(cell, outcome)
        why = f": {outcome.reason}" if outcome.reason else ""
        told = f"{_named(cell)}  {outcome.status} in {outcome.seconds:.0f} s{why}"
        if live is None:
            say(f"{told}  {_counted(table)}")
        else:
            live.console.print(told)
            live.update(_rich_table(table))

    def started(cell: Cell) -> None:
        table.set_running(cell)
        if live is not None:
            live.update(_rich_table(table))

    if live is None:
        engine.run(waiting, started, ended)
    else:
        with live:
            engine.run(waiting, started, ended)


def _named(cell: Cell) -> str:
    return " ".join(f"{key}={value}" for key, value in cell.values.items())


def _counted(table: SweepTable) -> str:
    return "(" + ", ".join(f"{n} {status}" for status, n in table.counts().items()) + ")"


def _live() -> Any:
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(stderr=True), auto_refresh=False)


def _rich_table(table: SweepTable) -> Any:
    from rich.table import Table

    shown = Table(title=_counted(table))
    keys = list(table.entries[0]["values"])
    for name in [*keys, "status", "image AUROC", "pixel AUROC", "AUPRO 0.3"]:
        shown.add_column(name)
    for entry in table.entries[-40:]:
        figures = entry.get("metrics", {})
        values = [figures.get(name) for name in ("image_auroc", "pixel_auroc", "aupro_30")]
        shown.add_row(
            *[entry["values"].get(key, "") for key in keys],
            entry["status"],
            *["-" if value is None else f"{value:.4f}" for value in values],
        )
    return shown
