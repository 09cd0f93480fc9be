"""Searches below a folder of runs: how they went, and which keys mattered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from adbench.errors import UserError
from adbench.reports import charts
from adbench.reports.facts import section
from adbench.runs.files import read_record

_MOST = 50  # searches that a page shows


@dataclass(frozen=True, slots=True)
class ShownSearch:
    """One search.

    Attributes:
        history: every complete trial's first objective, and the best so far.
        importance: share of each key; None with too few trials.
        front: the first two of several objectives; None where there is one.
        best: number, values and setting of the best trial.
    """

    name: str
    objectives: list[str]
    counts: dict[str, int]
    history: Markup | None
    importance: Markup | None
    front: Markup | None
    best: tuple[int, str, str] | None


def shown_searches(base: Path) -> list[ShownSearch]:
    """Return the searches in ``base`` or in its ``sweeps`` folder; damaged ones are left out."""
    if not base.is_dir():
        return []
    found = []
    for path in sorted([*base.glob("search.json"), *base.glob("sweeps/*/search.json")])[:_MOST]:
        try:
            found.append(_shown(path.parent.name, read_record(path)))
        except (UserError, KeyError, TypeError, ValueError):
            continue
    return found


def _shown(name: str, document: Mapping[str, Any]) -> ShownSearch:
    objectives = [str(each) for each in document["objectives"]]
    trials = [each for each in document["trials"] if isinstance(each, Mapping)]
    complete = [(int(t["number"]), _values(t), t) for t in trials if t["state"] == "complete"]
    complete = [each for each in complete if len(each[1]) == len(objectives)]
    counts: dict[str, int] = {}
    for trial in trials:
        counts[str(trial["state"])] = counts.get(str(trial["state"]), 0) + 1
    best = max(complete, key=lambda each: each[1][0], default=None)
    return ShownSearch(
        name,
        objectives,
        counts,
        _history(objectives[0], [(n, v[0]) for n, v, _ in complete]),
        _importance(section(document, "importance")),
        _front(objectives, [(f"trial {n}", v[0], v[1]) for n, v, _ in complete if len(v) > 1]),
        None if best is None else (best[0], _told(best[1]), _setting(best[2])),
    )


def _values(trial: Mapping[str, Any]) -> list[float]:
    values = [float(value) for value in trial["values"]]
    return values if all(map(math.isfinite, values)) else []


def _told(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _setting(trial: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in section(trial, "params").items())


def _history(name: str, values: Sequence[tuple[int, float]]) -> Markup | None:
    if len(values) < 2:
        return None
    ordered = sorted(values)
    numbers, reached = [n for n, _ in ordered], [v for _, v in ordered]
    best = [max(reached[: place + 1]) for place in range(len(reached))]
    low, high = min(reached), max(reached)
    pad = 0.05 * (high - low) or 0.5
    axes = (
        charts.Axis("trial", min(numbers), max(numbers)),
        charts.Axis(name, low - pad, high + pad),
    )
    lines = {"best so far": (numbers, best), "each complete trial": (numbers, reached)}
    return charts.line_chart("history", axes, lines)


def _front(names: Sequence[str], points: Sequence[tuple[str, float, float]]) -> Markup | None:
    if len(points) < 2:
        return None
    axes = []
    for name, values in ((names[1], [p[2] for p in points]), (names[0], [p[1] for p in points])):
        pad = 0.05 * (max(values) - min(values)) or 0.5
        axes.append(charts.Axis(name, min(values) - pad, max(values) + pad))
    return charts.scatter("objectives", (axes[0], axes[1]), [(n, y, x) for n, x, y in points])


def _importance(shares: Mapping[str, Any]) -> Markup | None:
    found = {str(key): float(value) for key, value in shares.items() if math.isfinite(float(value))}
    return charts.bar_chart("importance (PED-ANOVA)", found) if found else None
