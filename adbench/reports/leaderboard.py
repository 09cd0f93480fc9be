"""Runs grouped into methods: means, spreads, intervals, and the paper's figure beside them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adbench.reports.facts import RunFacts
from adbench.reports.intervals import interval
from adbench.reports.published import PLACES, paper_names, read_paper
from adbench.runs.summary import METRIC_COLUMNS

_PRINTED = {"image AUROC": "image_auroc", "pixel AUROC": "pixel_auroc", "AUPRO 0.3": "pro"}
# model -> its column in the papers' tables by category
_OWN = {
    "glass": ("GLASS-j",),
    "ulsad": ("ULSAD",),
    "realnet": ("RealNet (SIA)", "SIA"),
    "glad": ("GLAD",),
    "dfr": ("DFR",),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A mean over seeds, its standard deviation, and a bootstrap interval over test images."""

    mean: float
    spread: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one data set.

    Attributes:
        cells: column -> figure, None where no seed has it in every category.
        paper: column -> the print's mean over the same categories, in 0..1.
        leads: columns in which no row of the same categories and protocol is better; empty where
            there is no other.
    """

    label: str
    model: str
    protocol: str
    backbone: str
    marks: tuple[str, ...]
    categories: tuple[str, ...]
    seeds: int
    cells: dict[str, Cell | None]
    paper: dict[str, float]
    minutes: float | None
    images_per_second: float | None
    runs: tuple[str, ...]
    leads: frozenset[str] = frozenset()


def leaderboards(runs: Sequence[RunFacts]) -> dict[str, list[Row]]:
    """Return data set -> rows, best image AUROC first."""
    groups: dict[str, dict[tuple[str, ...], list[RunFacts]]] = {}
    for run in runs:
        key = (run.label, run.protocol, run.backbone)
        groups.setdefault(run.dataset, {}).setdefault(key, []).append(run)
    return {
        dataset: sorted(_with_leads([_row(dataset, found) for found in own.values()]), key=_place)
        for dataset, own in sorted(groups.items())
    }


def _with_leads(rows: Sequence[Row]) -> list[Row]:
    found = []
    for row in rows:
        rivals = [each for each in rows if _judged_alike(each) == _judged_alike(row)]
        leads = set()
        for name, cell in row.cells.items():
            others = [each.cells[name] for each in rivals if each is not row]
            means = [other.mean for other in others if other is not None]
            if cell is not None and means and cell.mean >= max(means):
                leads.add(name)
        found.append(replace(row, leads=frozenset(leads)))
    return found


def _judged_alike(row: Row) -> tuple[object, ...]:
    return row.categories, row.protocol


def _place(row: Row) -> tuple[float, str]:
    first = row.cells["image AUROC"]
    return -first.mean if first else 1.0, row.label


def _row(dataset: str, runs: Sequence[RunFacts]) -> Row:
    first = runs[0]
    categories = tuple(sorted({run.category for run in runs}))
    by_seed: dict[str, dict[str, RunFacts]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, {})[run.category] = run
    whole = [list(found.values()) for found in by_seed.values() if len(found) == len(categories)]
    cells = {name: _cell(whole, part, key) for name, part, key in METRIC_COLUMNS}
    return Row(
        first.label,
        first.model,
        first.protocol,
        first.backbone,
        tuple(dict.fromkeys(mark for run in runs for mark in run.marks)),
        categories,
        len(whole),
        cells,
        printed(first.model, dataset, categories),
        _mean([run.minutes for run in runs]),
        _mean([run.images_per_second for run in runs]),
        tuple(run.id for run in runs),
    )


def _cell(whole: Sequence[Sequence[RunFacts]], part: str, key: str) -> Cell | None:
    means = []
    for seed in whole:
        values = [run.figure(part, key) for run in seed]
        known = [value for value in values if value is not None]
        if len(known) == len(seed):
            means.append(statistics.mean(known))
    if not means:
        return None
    spread = statistics.stdev(means) if len(means) > 1 else None
    found = None
    if (part, key) == ("image", "auroc"):
        found = interval(np.mean([run.samples for seed in whole for run in seed], axis=0))
    return Cell(statistics.mean(means), spread, found)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def printed(model: str, dataset: str, categories: Sequence[str]) -> dict[str, float]:
    """Return column -> mean of the method's printed figures over these categories, in 0..1."""
    found: dict[str, float] = {}
    for name in paper_names():
        for table in read_paper(name).tables:
            if table.dataset != dataset or table.down not in PLACES:
                continue
            own = [each for each in _OWN.get(model, ()) if each in table.columns]
            if not own or not set(categories) <= set(table.places):
                continue
            cells = [table.figures(category, own[0]) for category in categories]
            for column, metric in _PRINTED.items():
                values = [float(cell[metric].value) for cell in cells if metric in cell]
                if len(values) == len(cells):
                    found.setdefault(column, statistics.mean(values) / 100)
    return found


def defect_matrix(runs: Sequence[RunFacts]) -> dict[str, dict[str, Any]]:
    """Return ``DATASET / CATEGORY`` -> kinds of defect and rows of image AUROC, mean over seeds."""
    places: dict[str, list[RunFacts]] = {}
    for run in runs:
        places.setdefault(" / ".join(run.place), []).append(run)
    found = {}
    for place, own in sorted(places.items()):
        kinds = sorted({kind for run in own for kind in run.defects})
        labels = list(dict.fromkeys(run.label for run in own))
        rows = [
            (label, [_mean([r.defects.get(k) for r in own if r.label == label]) for k in kinds])
            for label in labels
        ]
        if kinds:
            found[place] = {"kinds": kinds, "rows": rows}
    return found


def config_differences(runs: Sequence[RunFacts]) -> dict[str, list[str]]:
    """Return key -> value of each run, for the keys in which the runs differ."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    values = {key: [_text(run.config.get(key)) for run in runs] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def _text(value: Any) -> str:
    return "-" if value is None else str(value)[:80]


def text_rows(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return a leaderboard as text: header and rows."""
    header = ["method", "protocol", "backbone", "categories", "seeds"]
    header += [name for name, _, _ in METRIC_COLUMNS] + [
        "paper (image AUROC)",
        "min",
        "img/s",
        "marks",
    ]
    return header, [
        [
            row.label,
            row.protocol,
            row.backbone,
            ", ".join(row.categories),
            str(row.seeds),
            *[cell_text(row.cells[name]) for name, _, _ in METRIC_COLUMNS],
            _short(row.paper.get("image AUROC"), 4),
            _short(row.minutes, 1),
            _short(row.images_per_second, 1),
            "; ".join(row.marks),
        ]
        for row in rows
    ]


def cell_text(cell: Cell | None) -> str:
    """Return a figure with what is known of its uncertainty."""
    if cell is None:
        return "-"
    text = f"{cell.mean:.4f}"
    if cell.spread is not None:
        text += f" ± {cell.spread:.4f}"
    if cell.interval is not None:
        text += f" [{cell.interval[0]:.3f}, {cell.interval[1]:.3f}]"
    return text


def _short(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def by_category(runs: Sequence[RunFacts]) -> Mapping[str, tuple[list[str], list[list[str]]]]:
    """Return data set -> a table of image AUROC / AUPRO 0.3, methods by categories."""
    found = {}
    for dataset in sorted({run.dataset for run in runs}):
        own = [run for run in runs if run.dataset == dataset]
        categories = sorted({run.category for run in own})
        labels = list(dict.fromkeys(run.label for run in own))
        rows = []
        for label in labels:
            cells = []
            for category in categories:
                here = [r for r in own if r.label == label and r.category == category]
                image = _mean([r.figure("image", "auroc") for r in here])
                pro = _mean([r.figure("pixel", "aupro_30") for r in here])
                cells.append(f"{_short(image, 3)} / {_short(pro, 3)}" if here else "")
            rows.append([label, *cells])
        if len(categories) > 1:
            found[dataset] = (["method", *categories], rows)
    return found
