"""Paper beside ours: figures of a table's cells, their differences, and what is judged."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from adbench.reports.expansion import Wanted
from adbench.reports.measured import Measured, elsewhere
from adbench.reports.published import Figure, Table

NAMES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1-max",
    "pro": "AUPRO 0.3",
    "images_per_second": "img/s",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of a table, in percent (img/s for speed).

    Attributes:
        printed: as the paper has it; None where it prints none.
        alike: the print is of the same pictures.
        pictures: whose ours are, in words.
        ours, spread: mean over seeds of the mean over categories; None before all are there.
        by_paper: the same by the paper's protocol.
        seeds: finished ones; ``of``: asked for.
        minutes: of training and test, one cell's mean.
        side_by_side: cells ran beside others: seconds are not comparable.
    """

    setting: str
    place: str
    metric: str
    printed: str | None
    alike: bool
    pictures: str
    ours: float | None
    spread: float | None
    by_paper: float | None
    seeds: int
    of: int
    minutes: float | None
    images_per_second: float | None
    side_by_side: bool = False

    @property
    def delta(self) -> float | None:
        """Ours less the print, in its unit."""
        if self.printed is None or self.ours is None:
            return None
        return self.ours - float(self.printed.partition("±")[0])

    @property
    def name(self) -> tuple[str, str, str]:
        return self.setting, self.place, self.metric


def compared(
    table: Table,
    cells: Sequence[Wanted],
    found: Mapping[tuple[Wanted, int], Measured],
    seeds: Sequence[int],
    *,
    side_by_side: bool = False,
) -> list[Line]:
    """Return a line for each figure of each setting and place."""
    groups: dict[tuple[str, str], list[Wanted]] = {}
    for cell in cells:
        groups.setdefault((cell.setting, cell.place), []).append(cell)
    lines = []
    for (setting, place), group in groups.items():
        printed = table.at(setting, place)
        whole = [
            [found[cell, seed] for cell in group]
            for seed in seeds
            if all((cell, seed) in found for cell in group)
        ]
        lines += [
            _line(group, metric, printed.get(metric), whole, len(seeds))
            for metric in table.metrics
            if metric in NAMES
        ]
    return [replace(line, side_by_side=side_by_side) for line in lines]


def _pictures(group: Sequence[Wanted]) -> str:
    """Return whose pictures a line's are: the printed place, and what of it where not all."""
    names = list(dict.fromkeys(cell.category for cell in group))
    if group[0].alike or names == ["all"]:
        return group[0].place
    return f"{group[0].place}: {', '.join(names)}"


def _line(
    group: Sequence[Wanted],
    metric: str,
    printed: Figure | None,
    whole: Sequence[Sequence[Measured]],
    of: int,
) -> Line:
    everything = [run for seed in whole for run in seed]
    speed = _mean(run.images_per_second for run in everything)
    if metric == "images_per_second":
        ours, by_paper = [speed] if speed else [], []
    else:
        ours = _per_seed(whole, metric, "honest")
        by_paper = _per_seed(whole, metric, "paper")
    return Line(
        group[0].setting,
        group[0].place,
        metric,
        None if printed is None else printed.text,
        group[0].alike,
        _pictures(group),
        statistics.mean(ours) if ours else None,
        statistics.stdev(ours) if len(ours) > 1 else None,
        statistics.mean(by_paper) if by_paper else None,
        len(whole),
        of,
        _mean(run.minutes for run in everything),
        speed,
    )


def _per_seed(whole: Sequence[Sequence[Measured]], metric: str, protocol: str) -> list[float]:
    """Return in percent the mean over categories of each seed that has the figure in all."""
    means = []
    for seed in whole:
        values = [getattr(run, protocol).get(metric) for run in seed]
        if values and all(value is not None for value in values):
            means.append(100 * statistics.mean(values))
    return means


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


HEADER = (
    "setting",
    "pictures",
    "figure",
    "paper",
    "ours, honest",
    "ours, paper protocol",
    "delta",
    "seeds",
    "min",
    "img/s",
)


def table_rows(lines: Sequence[Line]) -> list[list[str]]:
    """Return the lines as text, in the order of ``HEADER``; ``*``: of other pictures."""
    return [
        [
            line.setting,
            line.pictures,
            NAMES[line.metric],
            "-" if line.printed is None else line.printed + ("" if line.alike else "*"),
            _percent(line.ours) + ("" if line.spread is None else f" ± {line.spread:.2f}"),
            _percent(line.by_paper),
            "-" if line.delta is None else f"{line.delta:+.2f}" + ("" if line.alike else "*"),
            f"{line.seeds}" if line.seeds == line.of else f"{line.seeds} of {line.of}",
            _short(line.minutes) + ("~" if line.side_by_side and line.minutes else ""),
            _short(line.images_per_second)
            + ("~" if line.side_by_side and line.images_per_second else ""),
        ]
        for line in lines
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A figure outside of what was asked for."""

    line: Line
    off: float
    against: str


def outside(lines: Sequence[Line], tolerance: float) -> list[Verdict]:
    """Return the lines whose figure is off the print by more than ``tolerance`` points.

    Only like is judged with like: a mean over other pictures is shown, not judged.
    """
    return [
        Verdict(line, line.delta, f"paper {line.printed}")
        for line in lines
        if line.alike and line.delta is not None and abs(line.delta) > tolerance
    ]


def drifted(lines: Sequence[Line], stored: Mapping[str, Any], tolerance: float) -> list[Verdict]:
    """Return the lines that differ from a baseline of our own figures, or that it misses.

    Args:
        stored: what ``document`` returned once.
    """
    before = {
        (each.get("setting"), each.get("place"), each.get("metric")): each.get("ours")
        for each in stored.get("lines", [])
        if isinstance(each, Mapping)
    }
    found = []
    for line in lines:
        if line.metric == "images_per_second" or line.ours is None:
            continue
        old = before.get(line.name)
        if not isinstance(old, int | float):
            found.append(Verdict(line, float("nan"), "not in the baseline"))
        elif abs(line.ours - old) > tolerance:
            found.append(Verdict(line, line.ours - old, f"baseline {old:.2f}"))
    return found


def document(
    head: Mapping[str, Any], lines: Sequence[Line], found: Mapping[tuple[Wanted, int], Measured]
) -> dict[str, Any]:
    """Return everything a table of ours rests on, for JSON: figures, budget, data and code."""
    return {
        "schema": 1,
        **head,
        "lines": [{**asdict(line), "delta": line.delta} for line in lines],
        "cells": [
            {
                "setting": cell.setting,
                "place": cell.place,
                "category": cell.category,
                "seed": seed,
                "overrides": [word for word in cell.overrides if not elsewhere(word)],
                "run": "/".join(run.folder.parts[-4:]),
                "honest": run.honest,
                "paper_protocol": run.paper,
                "minutes": run.minutes,
                **run.facts,
            }
            for (cell, seed), run in found.items()
        ],
    }
