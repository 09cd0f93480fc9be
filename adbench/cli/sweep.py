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
from adbench.config.locate import SWEEPS
from adbench.errors import UserError

if TYPE_CHECKING:
    from adbench.config.schema import LauncherKeys, SweepKeys
    from adbench.sweeps.engine import Engine
    from adbench.sweeps.grid import Cell
    from adbench.sweeps.table import SweepTable


OWN = tuple(f"{plus}{group}{mark}" for plus in ("", "+", "++") for group in SWEEPS for mark in ".=")


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
            "sweep=optuna               a search over the model's space in conf/sweep/optuna.yaml",
            "sweep.search.trials=20     how many; objectives, startup, prune and seed as well",
            "sweep.name=NAME            folder of the table",
            "launcher=local             where cells run: local | joblib | submitit (SLURM) | ray",
            "sweep.jobs=N               cells at a time; 1 with launcher=local",
            "sweep.threads=N            torch threads per cell",
            "sweep.timeout_minutes=N    stop a cell after so long",
            "sweep.retry_failed=true    try failed cells again",
        ),
        also=SWEEPS,
    )


def run(words: Sequence[str]) -> int:
    """Run a grid; the last line on stdout is the sweep's folder; 1 where a cell failed."""
    arguments = parsed_arguments(words)
    from adbench.config.compose import compose_config, parse_overrides, typed_words
    from adbench.config.schema import LauncherKeys, SweepKeys, SweepRoot, settings
    from adbench.config.typed import from_mapping
    from adbench.sweeps.grid import grid, own_folders, split_overrides
    from adbench.sweeps.table import SweepTable

    own = [word for word in arguments.overrides if word.startswith(OWN)]
    rest = [word for word in arguments.overrides if word not in own]
    root = compose_config("sweep", own, arguments.config_dir, (SweepRoot,))
    keys = from_mapping(SweepKeys, root["sweep"], "sweep")
    launcher = from_mapping(LauncherKeys, root["launcher"], "launcher")
    rest = typed_words("train", rest, arguments.config_dir, several=True)
    if keys.search is not None:
        from adbench.cli.search import run_search

        return run_search(rest, keys, keys.search, arguments, launcher)
    fixed, swept = split_overrides(parse_overrides(rest))
    first = _first_config(fixed, swept, keys, arguments)
    settings(first)
    known: dict[tuple[str, ...], list[str]] = {}
    cells = own_folders(
        [
            each
            for cell in grid(fixed, swept, keys.rows)
            for each in by_category(cell, arguments.config_dir, known)
        ]
    )
    if len(cells) == 1 and not cells[0].values:
        raise UserError("nothing to sweep: give a key several values, e.g. seed=1,2,3")
    name = keys.name or _hash_of([*rest, *map(str, (keys.rows or {}).items())])
    folder = sweep_folder(first["run"]["root"], name)
    if launcher.dry_run:
        return dry_run(folder, launcher, len(cells))
    table = SweepTable(folder, cells)
    run_cells(table, keys, arguments, launcher, plain=bool(first["plain"]))
    print(table.markdown())
    print(folder)
    return 1 if table.counts().get("failed") else 0


def sweep_folder(root: str, name: str) -> Path:
    """Return where a sweep's table lies."""
    from adbench.runs.files import confined, safe_name

    return confined(Path(root).expanduser(), "sweeps", safe_name(name, "sweep.name"))


def _first_config(
    fixed: Sequence[str], swept: dict[str, list[str]], keys: SweepKeys, arguments: Arguments
) -> dict[str, Any]:
    """Return the first cell's configuration; a wrong key of any row is told before it runs."""
    from adbench.config.compose import compose_config

    found = [
        compose_config("train", [*fixed, *row, *_first(swept)], arguments.config_dir)
        for row in (keys.rows or {"": ()}).values()
    ]
    return found[0]


def _hash_of(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]


def _first(swept: dict[str, list[str]]) -> list[str]:
    return [f"{key}={values[0]}" for key, values in swept.items()]


def by_category(
    cell: Cell, config_dir: Path | None, known: dict[tuple[str, ...], list[str]]
) -> list[Cell]:
    """Return one cell per category where a cell asks for several, each with a model of its own.

    Args:
        known: categories found before, by the overrides that they depend on.
    """
    from adbench.sweeps.grid import Cell

    deciding = tuple(
        w for w in cell.overrides if w.startswith(("dataset", "experiment=", "model="))
    )
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
    from adbench.data.opening import chosen_categories

    return chosen_categories(from_mapping(DatasetKeys, section, "dataset"))


def run_cells(
    table: SweepTable,
    keys: SweepKeys,
    arguments: Arguments,
    launcher: LauncherKeys | None = None,
    *,
    plain: bool,
) -> None:
    """Run what a table lacks, each cell a process of its own."""
    from adbench.sweeps.progress import Progress

    engine = engine_of(table.folder, keys, arguments, launcher)
    table.settle_dead(engine.claims.held)
    table.write()
    with Progress(table, say, live=live_display(plain), retry_failed=keys.retry_failed) as progress:
        waiting = [cell for cell in table.cells if progress.due(cell)]
        done = len(table.cells) - len(waiting)
        say(f"{len(table.cells)} cells, {done} done before; table: {table.folder}/sweep.md")
        try:
            engine.run(waiting, progress)
        finally:
            table.write()


def engine_of(
    folder: Path, keys: SweepKeys, arguments: Arguments, launcher: LauncherKeys | None
) -> Engine:
    """Return what runs the cells of the sweep in ``folder``, by the configuration of its start."""
    from adbench.config.schema import LauncherKeys
    from adbench.sweeps.claims import Claims
    from adbench.sweeps.engine import Engine
    from adbench.sweeps.fixed import FixedConf
    from adbench.sweeps.launchers import build_launcher

    launcher = launcher or LauncherKeys()
    conf = FixedConf(folder, arguments.config_dir)
    if conf.changed:
        say(conf.told())
    threads = [] if keys.threads is None else [f"hardware.threads={keys.threads}"]
    found = build_launcher(
        launcher,
        folder,
        folder.parents[1],
        jobs=keys.jobs,
        flags=[*threads, *conf.flags],
        environ=conf.environ,
        conf=conf.folder,
    )
    return Engine(
        found,
        Claims(folder / "cells", remote=found.remote),
        timeout=None if keys.timeout_minutes is None else keys.timeout_minutes * 60,
        retries=launcher.retries,
    )


def dry_run(folder: Path, launcher: LauncherKeys, cells: int) -> int:
    """Write what would be given to sbatch; its path is the last line on stdout."""
    from adbench.runs.files import write_text
    from adbench.sweeps.slurm import sbatch_text

    path = folder / "submit.sh"
    text = sbatch_text((folder / "submitit").resolve(), launcher, min(cells, launcher.parallel))
    write_text(path, text)
    print(text)
    print(path)
    return 0


def live_display(plain: bool) -> bool:
    """Whether a table that is drawn anew can be shown."""
    return not plain and os.isatty(sys.stderr.fileno())
