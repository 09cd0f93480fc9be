"""The cells of a sweep: every combination of the swept values."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination.

    Attributes:
        overrides: what the cell's own process is started with.
        values: swept key -> value as text, the cell's columns in the table.
    """

    overrides: tuple[str, ...]
    values: dict[str, str]

    @property
    def id(self) -> str:
        """16 hex digits fixed by the overrides: the name of the cell's files."""
        return hashlib.sha256("\n".join(self.overrides).encode()).hexdigest()[:16]


def split_overrides(parsed: Sequence[Any]) -> tuple[list[str], dict[str, list[str]]]:
    """Return fixed overrides and swept key -> values, from Hydra's parsed overrides."""
    fixed: list[str] = []
    swept: dict[str, list[str]] = {}
    for override in parsed:
        if override.is_sweep_override():
            prefix = override.input_line.split("=")[0]
            swept[prefix] = list(override.sweep_string_iterator())
        else:
            fixed.append(override.input_line)
    return fixed, swept


def grid(
    fixed: Sequence[str],
    swept: dict[str, list[str]],
    rows: Mapping[str, Sequence[str]] | None = None,
) -> list[Cell]:
    """Return all combinations, the last key varying fastest.

    Args:
        fixed: overrides of every cell.
        swept: key -> values.
        rows: name -> overrides, for what is no product: the rows of a paper's table. Each row is
            combined with all combinations of ``swept`` and varies slowest.

    >>> [cell.values for cell in grid([], {"seed": ["1", "2"]})]
    [{'seed': '1'}, {'seed': '2'}]
    """
    cells = []
    for name, own in (rows or {"": ()}).items():
        for combination in itertools.product(*swept.values()):
            values = dict(zip(swept, combination, strict=True))
            changed = [f"{key}={value}" for key, value in values.items()]
            named = {"row": name} if rows else {}
            cells.append(Cell((*fixed, *own, *changed), {**named, **values}))
    return list({cell.id: cell for cell in cells}.values())


def own_folders(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells with a run name of their own, where one name was given for several."""
    given = [cell for cell in cells if _name_of(cell) is not None]
    places = [_place(cell) for cell in given]
    if len(set(places)) == len(places):
        return list(cells)
    return [cell if _name_of(cell) is None else _renamed(cell) for cell in cells]


def _name_of(cell: Cell) -> str | None:
    names = [w.partition("=")[2] for w in cell.overrides if w.startswith("run.name=")]
    return names[-1].strip("'") if names else None


def _place(cell: Cell) -> tuple[str | None, ...]:
    """Return what of a cell decides where its run folder lies."""
    keys = ("model", "dataset", "dataset.category")
    return (_name_of(cell), *[cell.values.get(key) for key in keys])


def _renamed(cell: Cell) -> Cell:
    rest = tuple(word for word in cell.overrides if not word.startswith("run.name="))
    return Cell((*rest, f"run.name='{_name_of(cell)}-{cell.id[:8]}'"), cell.values)
