"""Results tables of the papers as data: one schema, checked means, and what reproduces a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Literal

from adbench.config.typed import from_mapping
from adbench.errors import UserError, nearest
from adbench.runs.files import read_yaml

FOLDER = Path(__file__).parent / "papers"

Metric = Literal[
    "image_auroc",
    "image_ap",
    "image_f1max",
    "pixel_auroc",
    "pixel_ap",
    "pixel_f1max",
    "pro",
    "accuracy",
    "images_per_second",
    "gigabytes",
    "train_hours",
    "pool_hours",
    "inception_score",
    "ic_lpips",
    "region_score",
    "fid",
    "lpips",
]
Axis = Literal["category", "subset", "method", "setting", "dataset", "quantity"]
Kind = Literal[
    "comparison",
    "ablation",
    "hyperparameter",
    "efficiency",
    "generation",
    "downstream",
    "text",
    "figure",
]
PLACES = ("category", "subset", "dataset")
"""Axes that say on which pictures; the others say with which settings."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A printed figure that its own rows, or another table, contradict.

    Attributes:
        computed: what the rows give, or what the other table prints.
        rounding: the rows' own rounding can explain it.
        table: the other table, where one is repeated.
    """

    row: str
    column: str
    metric: Metric
    printed: str
    computed: str
    rounding: bool = False
    table: str | None = None


@dataclass(frozen=True, slots=True)
class Repeat:
    """A column that repeats the mean rows of other tables, joined by ``+``."""

    column: str
    table: str


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What reproduces a table.

    Attributes:
        answer: by one command, partly, or not.
        why: what is out of reach, and why.
        experiment: the preset is ``EXPERIMENT_SCALE``.
        settings: printed name -> overrides.
        sweep: file of conf/sweep whose rows are the settings.
        sweep_rows: printed name -> row of the sweep; empty: of one name.
        fixed: overrides of every cell.
        places: printed place -> overrides, where it is no category and no data set.
    """

    answer: Literal["whole", "partly", "no"]
    why: str | None = None
    experiment: str | None = None
    settings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sweep: str | None = None
    sweep_rows: dict[str, str] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    places: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """A printed figure: as text, as a number, and its deviation where one is printed."""

    text: str
    value: Decimal
    deviation: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """One table, figure or statement of a paper.

    Attributes:
        rows: name -> cells, separated by spaces; a cell holds the metrics' figures as printed,
            separated by ``/``; ``-``: not printed.
        means: row -> rows that it averages; ``means_across``: column -> columns.
        repeats: columns that stand in other tables too.
        differs: printed figures that the rows or those tables contradict.
    """

    id: str
    where: str
    what: str
    kind: Kind
    reproduce: Reproduction
    metrics: tuple[Metric, ...] = ()
    dataset: str | None = None
    down: Axis = "setting"
    across: Axis = "dataset"
    columns: tuple[str, ...] = ()
    rows: dict[str, str] = field(default_factory=dict)
    means: dict[str, tuple[str, ...]] = field(default_factory=dict)
    means_across: dict[str, tuple[str, ...]] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    repeats: tuple[Repeat, ...] = ()
    differs: tuple[Difference, ...] = ()

    def figures(self, row: str, column: str) -> dict[str, Figure]:
        """Return metric -> printed figure of one cell; what is not printed is missing."""
        cell = self.rows[row].split()[self.columns.index(column)]
        parts = ["-"] * len(self.metrics) if cell == "-" else cell.split("/")
        return {
            metric: _figure(part)
            for metric, part in zip(self.metrics, parts, strict=True)
            if part != "-"
        }

    def at(self, setting: str, place: str) -> dict[str, Figure]:
        """Return the cell of a setting (or method) and a place, whichever runs down."""
        row, column = (place, setting) if self.down in PLACES else (setting, place)
        if row not in self.rows or column not in self.columns:
            return {}
        return self.figures(row, column)

    @property
    def places(self) -> list[str]:
        """Printed names of the pictures: categories, subsets or data sets, without means."""
        if self.down in PLACES:
            return [row for row in self.rows if row not in self.means]
        if self.across in PLACES:
            return [column for column in self.columns if column not in self.means_across]
        return []


def _figure(text: str) -> Figure:
    value, _, deviation = text.partition("±")
    return Figure(text, Decimal(value), Decimal(deviation) if deviation else None)


@dataclass(frozen=True, slots=True)
class Paper:
    """One paper.

    Attributes:
        datasets: printed name -> option of the group ``dataset``.
        caveats: name -> what a reader of a table must know.
    """

    schema: Literal[1]
    id: str
    number: str
    title: str
    venue: str
    method: str
    datasets: dict[str, str]
    caveats: dict[str, str]
    tables: tuple[Table, ...]

    def table(self, name: str) -> Table:
        """Return a table by its id.

        Raises:
            UserError: there is none.
        """
        for table in self.tables:
            if table.id.lower() == name.lower():
                return table
        known = [table.id for table in self.tables]
        raise UserError(
            f"table={name}: {self.id} has no such table{nearest(name, known)} "
            f"(known: {', '.join(known)})"
        )


def paper_names() -> list[str]:
    """Return the ids of the papers, in the order of their numbers."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=lambda n: read_paper(n).number)


@cache
def read_paper(name: str) -> Paper:
    """Return a paper by its id, e.g. ``glass``.

    Raises:
        UserError: there is none.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if name not in known:
        raise UserError(
            f"no paper '{name}'{nearest(name, known)} (known: {', '.join(known)}; "
            "adbench reproduce list)"
        )
    return from_mapping(Paper, read_yaml(FOLDER / f"{name}.yaml"), name)


def contradictions(paper: Paper, table: Table) -> list[Difference]:
    """Return every printed mean that its rows do not round to, and every unequal repetition."""
    found = [*_means(table), *_means_across(table)]
    for repeat in table.repeats:
        for name in repeat.table.split("+"):
            found += _unequal(table, repeat.column, paper.table(name))
    return found


def _means(table: Table) -> Iterator[Difference]:
    for row, parts in table.means.items():
        for column in table.columns:
            cells = [table.figures(part, column) for part in parts]
            yield from _compared(row, column, table.figures(row, column), cells)


def _means_across(table: Table) -> Iterator[Difference]:
    for column, parts in table.means_across.items():
        for row in table.rows:
            cells = [table.figures(row, part) for part in parts]
            yield from _compared(row, column, table.figures(row, column), cells)


def _compared(
    row: str,
    column: str,
    printed: Mapping[str, Figure],
    cells: Sequence[Mapping[str, Figure]],
) -> Iterator[Difference]:
    for metric, figure in printed.items():
        if any(metric not in cell for cell in cells):
            continue
        values = [cell[metric].value for cell in cells]
        mean = sum(values, Decimal(0)) / len(values)
        off, unit = abs(figure.value - mean), _unit(figure.value)
        if off <= unit / 2:
            continue
        explained = off <= unit / 2 + max(map(_unit, values)) / 2
        shown = str(mean.quantize(Decimal("0.001")).normalize())
        text = figure.text.partition("±")[0]
        yield Difference(row, column, metric, text, shown, explained)  # type: ignore[arg-type]


def _unit(value: Decimal) -> Decimal:
    """Return the last printed digit's weight."""
    return Decimal(1).scaleb(int(value.as_tuple().exponent))


def _unequal(table: Table, column: str, other: Table) -> Iterator[Difference]:
    for row in table.rows:
        if row not in other.columns:
            continue
        first, second = table.figures(row, column), other.figures("mean", row)
        for metric in first.keys() & second.keys():
            if first[metric].value != second[metric].value:
                texts = [cell[metric].text.partition("±")[0] for cell in (first, second)]
                yield Difference(row, column, metric, texts[0], texts[1], table=other.id)  # type: ignore[arg-type]
