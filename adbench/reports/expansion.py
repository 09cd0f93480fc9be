"""From a table of a paper to the cells that reproduce it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from adbench.config.locate import conf_folder, options
from adbench.errors import UserError, nearest
from adbench.reports.measured import OURS
from adbench.reports.published import FOLDER, Paper, Table, paper_names, read_paper
from adbench.reports.settings import ReproduceKeys, listed
from adbench.runs.files import read_yaml

T = TypeVar("T")

_FLAVOURS = {"glass": "glass", "realnet": "realnet", "glad": "glad"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One training of a table.

    Attributes:
        setting, place: printed names of row and column; ``place`` says on which pictures.
        dataset, category: whose pictures; ``all`` where the categories are not known here.
        alike: the printed figure is of the same pictures, not a mean over more or others.
        overrides: what the training is started with, but for the seed.
    """

    setting: str
    place: str
    dataset: str
    category: str
    alike: bool
    overrides: tuple[str, ...]


def setting_overrides(table: Table, scale: str = "paper") -> dict[str, tuple[str, ...]]:
    """Return printed name of each setting that can be run -> its overrides.

    Where a sweep has a form for two cores (NAME_cpu), that is taken at ``scale=cpu``.

    Raises:
        UserError: conf/sweep lacks the table's file or a row.
    """
    told = table.reproduce
    if told.sweep is None:
        return dict(told.settings)
    path = conf_folder() / "sweep" / f"{told.sweep}.yaml"
    small = path.with_stem(f"{told.sweep}_cpu")
    path = small if scale == "cpu" and small.is_file() else path
    if not path.is_file():
        known = options("sweep")
        raise UserError(f"no sweep '{told.sweep}'{nearest(told.sweep, known)}: not built yet")
    rows = {str(k): tuple(map(str, v)) for k, v in read_yaml(path).get("rows", {}).items()}
    named = told.sweep_rows or {name: name for name in rows}
    for row in named.values():
        if row not in rows:
            raise UserError(f"{path.name} has no row '{row}'{nearest(row, rows)}")
    return {name: rows[row] for name, row in named.items()}


def peer_overrides(table: Table, scale: str) -> dict[str, tuple[str, ...]]:
    """Return printed name of each other method of the table that runs here -> its overrides."""
    if "method" not in (table.down, table.across):
        return {}
    printed = table.rows if table.down == "method" else table.columns
    known = read_yaml(FOLDER.with_name("peers.yaml"))
    pictures = [word for word in table.reproduce.fixed if word.startswith("dataset.")]
    return {name: (*known[name][scale], *pictures) for name in printed if name in known}


def expanded(
    paper: Paper, table: Table, keys: ReproduceKeys, rest: Sequence[str] = ()
) -> list[Wanted]:
    """Return the trainings that a table asks for, settings slowest.

    Unless they are asked for by name, the columns of other methods are left out.

    Args:
        rest: overrides that are added to every cell; ``dataset=`` there moves the whole table to
            other pictures, which nothing printed then stands beside.

    Raises:
        UserError: nothing reproduces the table, or a setting, category or preset is unknown.
    """
    told = table.reproduce
    if told.answer == "no" or (told.experiment is None):
        why = told.why or "nothing runs it"
        raise UserError(f"{paper.id} {table.where} is not reproduced: {why}")
    if not {*OURS, "images_per_second"} & set(table.metrics):
        raise UserError(
            f"{paper.id} {table.where}: runs measure none of its figures "
            f"({', '.join(table.metrics)})"
        )
    # at this scale the preset that detects best may not be the paper's training made smaller
    published = f"{told.experiment}_published_{keys.scale}"
    there = options("experiment")
    preset = published if published in there else f"{told.experiment}_{keys.scale}"
    if preset not in there:
        raise UserError(f"no preset experiment={preset}: {paper.method} lacks it at this scale")
    common = (f"experiment={preset}", *told.fixed)
    settings = {
        name: (*common, *_extras(paper, table, keys), *own)
        for name, own in setting_overrides(table, keys.scale).items()
    }
    asked = listed(keys.setting)
    if asked is not None:
        settings = {**peer_overrides(table, keys.scale), **settings}
    settings = _chosen(settings, asked, "setting")
    places = _places(paper, table, keys, rest)
    return [
        Wanted(setting, place.name, place.dataset, place.category, place.alike, words)
        for setting, own in settings.items()
        for place in places
        for words in [(*own, *place.overrides, *rest)]
    ]


def _extras(paper: Paper, table: Table, keys: ReproduceKeys) -> list[str]:
    """Return what shows the paper's protocol beside the honest figures of one training."""
    words = [f"train.oracle_every={keys.looks}"] if keys.looks else []
    if "pro" in table.metrics and paper.id in _FLAVOURS:
        words.append(f"metrics.pro_flavour={_FLAVOURS[paper.id]}")
    return words


@dataclass(frozen=True, slots=True)
class _Place:
    name: str
    dataset: str
    category: str
    alike: bool
    overrides: tuple[str, ...]


def _places(paper: Paper, table: Table, keys: ReproduceKeys, rest: Sequence[str]) -> list[_Place]:
    moved = [word.partition("=")[2] for word in rest if word.startswith("dataset=")]
    asked = listed(keys.category)
    if moved:
        names = asked or ["all"]
        return [_Place(moved[-1], moved[-1], name, False, (_category(name),)) for name in names]
    if "category" in (table.down, table.across) and table.dataset is not None:
        known = {name: _category_place(table, name) for name in table.places}
        return list(_chosen(known, asked, "category").values())
    return [
        place for name in _datasets(paper, table) for place in _of_set(paper, table, name, asked)
    ]


def _category_place(table: Table, name: str) -> _Place:
    own = table.reproduce.places.get(name)
    words = own or (f"dataset={table.dataset}", _category(name))
    dataset = words[0].partition("=")[2]
    return _Place(name, dataset, name, True, words)


def _datasets(paper: Paper, table: Table) -> list[str]:
    """Return the printed names of data sets or subsets; one stands for a table without any."""
    if table.places:
        return table.places
    given = {option: name for name, option in paper.datasets.items()}
    return [given.get(str(table.dataset), next(iter(paper.datasets)))]


def _of_set(paper: Paper, table: Table, name: str, asked: list[str] | None) -> list[_Place]:
    """Return one place for each asked or known category of a data set."""
    dataset = paper.datasets.get(name) or str(table.dataset)
    own = table.reproduce.places.get(name, ())
    known = known_categories(dataset)
    names = asked or known or ["all"]
    alike = bool(table.rows) and set(names) in (set(known), {"all"})
    words = [(f"dataset={dataset}", *own, _category(each)) for each in names]
    return [
        _Place(name, dataset, each, alike, each_words)
        for each, each_words in zip(names, words, strict=True)
    ]


def known_categories(dataset: str) -> list[str]:
    """Return the categories of a data set, as any paper prints them; empty where none does."""
    for name in paper_names():
        for table in read_paper(name).tables:
            if table.dataset == dataset and table.down == "category" and table.means:
                places = table.reproduce.places
                return [place for place in table.places if place not in places]
    return []


def _category(name: str) -> str:
    return f"dataset.category='{name}'" if name.isdigit() else f"dataset.category={name}"


def _chosen(known: Mapping[str, T], asked: list[str] | None, what: str) -> dict[str, T]:
    if asked is None or asked == ["all"]:
        return dict(known)
    found = {}
    for name in asked:
        match = [each for each in known if each.lower() == name.lower()]
        if not match:
            raise UserError(
                f"{what}={name}: the table has no such {what}{nearest(name, known)} "
                f"(known: {', '.join(known)})"
            )
        found[match[0]] = known[match[0]]
    return found
