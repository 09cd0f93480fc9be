"""The cells of a sweep: every combination of the swept values."""

from __future__ import annotations

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
    return cells
