"""``adbench runs``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adbench.cli.console import figure, print_table, say
from adbench.config.plain import plain_keys
from adbench.errors import UserError

if TYPE_CHECKING:
    from adbench.runs.registry import Run

HELP = """usage: adbench runs [list] [key=value ...]
       adbench runs compare FOLDER FOLDER
       adbench runs clean [delete=true] [key=value ...]

list     one line a run folder: status, protocol, figures, minutes, megabytes
compare  where two runs' configurations differ, and their figures
clean    what was begun and never finished; delete=true removes it, but for what a process holds

  run.root=outputs                  where runs lie
  model= dataset= category=         only these
  status= protocol=                 finished, running ...; honest, paper
  sort=run|image_auroc|pixel_auroc|aupro|minutes|megabytes"""

_HEADER = ["run", "status", "protocol", "weights", "I-AUROC", "P-AUROC", "AUPRO", "min", "MB"]
_FIGURES = ("image_auroc", "pixel_auroc", "aupro")


@dataclass(frozen=True, slots=True)
class RunsKeys:
    """Keys of ``adbench runs``; the help says what each does."""

    root: str = "outputs"
    model: str | None = None
    dataset: str | None = None
    category: str | None = None
    status: str | None = None
    protocol: str | None = None
    sort: Literal["run", "image_auroc", "pixel_auroc", "aupro", "minutes", "megabytes"] = "run"
    delete: bool = False


def run(words: Sequence[str]) -> int:
    """Print one row per run folder; what cannot be read is named, the rest listed."""
    verb = words[0] if words and "=" not in words[0] else "list"
    rest = list(words[1:] if words and words[0] == verb else words)
    if verb == "compare":
        return _compare(rest)
    if verb not in ("list", "clean"):
        raise UserError(f"runs {verb}: list, compare and clean are known")
    keys = plain_keys(RunsKeys, [_short(word) for word in rest], "runs")
    if verb == "clean":
        return _clean(keys)
    if keys.delete:
        raise UserError("delete=true belongs to adbench runs clean")
    return _list(keys)


def _short(word: str) -> str:
    """Return a word with the keys that other verbs spell in full."""
    key, separator, value = word.partition("=")
    return {"run.root": "root", "dataset.category": "category"}.get(key, key) + separator + value


def _list(keys: RunsKeys) -> int:
    from adbench.runs.registry import sorted_runs

    runs, damaged = _found(keys)
    if not runs and not damaged:
        raise UserError(f"no run below {keys.root}")
    rows = [_row(run) for run in sorted_runs(runs, keys.sort)]
    total = sum(run.megabytes for run in runs)
    print_table(f"{keys.root}: {len(rows)} runs, {total:.0f} MB", _HEADER, rows, plain=False)
    _tell(damaged)
    return 0


def _clean(keys: RunsKeys) -> int:
    """Name, or remove, what was begun and never finished; 1 where something is held."""
    from adbench.runs.registry import remove_unfinished

    runs, damaged = _found(keys)
    begun = [run for run in runs if run.status != "finished"]
    if not keys.delete:
        for run in begun:
            print(f"{run.folder}  {run.status}  {run.megabytes:.0f} MB")
        say(f"{len(begun)} unfinished; the same command goes on with one, delete=true removes them")
        _tell(damaged)
        return 0
    held = [run for run in begun if not remove_unfinished(run)]
    for run in held:
        say(f"left: {run.folder}: a process holds it")
    say(f"{len(begun) - len(held)} removed")
    _tell(damaged)
    return 1 if held else 0


def _compare(words: Sequence[str]) -> int:
    from adbench.runs.registry import configuration, differences, read_run

    if len(words) != 2 or any("=" in word and not Path(word).exists() for word in words):
        raise UserError("runs compare takes two run folders")
    folders = [_run_folder(word) for word in words]
    both = [read_run(folder, folder.parents[3]) for folder in folders]
    configs = differences(*(configuration(folder) for folder in folders))
    header = ["", both[0].name, both[1].name, "difference"]
    rows = [[key, _told(one), _told(other), ""] for key, (one, other) in sorted(configs.items())]
    for name in _FIGURES:
        first, second = both[0].figures[name], both[1].figures[name]
        gap = "-" if first is None or second is None else f"{second - first:+.4f}"
        rows.append([name, figure(first), figure(second), gap])
    print_table("two runs", header, rows, plain=False)
    return 0


def _run_folder(word: str) -> Path:
    folder = Path(word).expanduser().absolute()
    if not (folder / "run.json").is_file() or len(folder.parts) < 5:
        raise UserError(f"{word} is no run folder: run.json is missing")
    return folder


def _told(value: Any) -> str:
    return "-" if value is None else str(value)[:60]


def _found(keys: RunsKeys) -> tuple[list[Run], list[str]]:
    """Return the runs that were asked for, and what is wrong with those that cannot be read."""
    from adbench.runs.registry import read_run, run_folders

    root = Path(keys.root).expanduser()
    runs, damaged = [], []
    for folder in run_folders(root):
        try:
            run = read_run(folder, root)
        except UserError as error:
            damaged.append(str(error))
            continue
        names = ("model", "dataset", "category", "status", "protocol")
        if all(getattr(keys, name) in (None, getattr(run, name)) for name in names):
            runs.append(run)
    return runs, damaged


def _tell(damaged: Sequence[str]) -> None:
    for line in damaged:
        say(f"not listed: {line}")


def _row(run: Run) -> list[str]:
    return [
        run.name,
        run.status,
        run.protocol,
        run.weights,
        *[figure(run.figures[name]) for name in _FIGURES],
        "-" if run.minutes is None else f"{run.minutes:.1f}",
        f"{run.megabytes:.1f}",
    ]
