"""``adbench reproduce``: a paper's table beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import print_table, say
from adbench.errors import UserError
from adbench.reports.settings import ReproduceKeys

if TYPE_CHECKING:
    from adbench.reports.expansion import Wanted

HELP = """usage: adbench reproduce paper=NAME table=N [category=a,b] [setting=a,b] [KEY=...]
       adbench reproduce list [paper=NAME] [run.root=outputs]

Trains what a table of a paper needs and is not finished yet, each cell a run folder of its own,
then prints paper, ours (honest), ours (paper protocol), difference, seeds, minutes and img/s, and
the table's caveats. Further keys (train.steps=, dataset.root=, run.root=) go to every training.

  setting=PatchCore       another method's column, where it runs here; all: every one that does
  scale=cpu|gpu|paper     at which budget ours is made; it stands above the table
  plan=true [probe=true]  cells and what they will take; nothing of the table is run
  collect=true            run nothing: what is finished below run.root, copied there from anywhere
  tolerance=0.5           exit code 1 where a figure of the same pictures is off by more points
  against=FILE            the same against a baseline of our own, which save=FILE once wrote
  oracle=1                epochs between looks at the test set, for the paper's protocol alone
  archive=FILE.zip        figures, records, predictions and code, for a paper's supplement
  jobs=1 timeout_minutes= cells at a time; stop a cell after so long

The last line on stdout is the folder with result.json and result.md."""

_LISTS = ("category", "setting", "seed")


def run(words: Sequence[str]) -> int:
    """Reproduce a table; 1 where a cell failed or a figure is outside of what was asked for."""
    if words and words[0] == "list":
        return _list(words[1:])
    arguments = parsed_arguments(words)
    from adbench.config.compose import compose_config
    from adbench.config.schema import settings
    from adbench.config.typed import from_mapping
    from adbench.reports.expansion import expanded
    from adbench.reports.published import read_paper

    own, rest = _parted(arguments.overrides)
    composed = compose_config("reproduce", own, arguments.config_dir, (ReproduceKeys,))
    keys = from_mapping(ReproduceKeys, composed, "")
    if keys.paper is None or keys.table is None:
        raise UserError("paper=NAME and table=N are needed; adbench reproduce list shows all")
    paper = read_paper(keys.paper)
    table = paper.table(keys.table)
    cells = expanded(paper, table, keys, rest)
    configs = {}
    for cell in cells:
        configs[cell] = compose_config("train", cell.overrides, arguments.config_dir)
        settings(configs[cell])
    cells = cells if keys.collect else _with_pictures(cells, configs)
    from adbench.cli.reproduction import Request

    first = configs[cells[0]]
    request = Request(paper, table, keys, arguments, cells, configs, Path(first["run"]["root"]))
    return request.planned() if keys.plan else request.done()


def _with_pictures(
    cells: Sequence[Wanted], configs: Mapping[Wanted, dict[str, Any]]
) -> list[Wanted]:
    """Return the cells whose data set is here; the others are named.

    Raises:
        UserError: no cell's is.
    """
    from adbench.config.schema import DatasetKeys
    from adbench.config.typed import from_mapping
    from adbench.data.opening import chosen_categories

    missing: dict[str, str] = {}
    kept = []
    for cell in cells:
        try:
            chosen_categories(from_mapping(DatasetKeys, configs[cell]["dataset"], "dataset"))
            kept.append(cell)
        except UserError as error:
            missing.setdefault(f"{cell.place} {cell.category}", str(error))
    if not kept:
        raise UserError(next(iter(missing.values())))
    for name, why in missing.items():
        say(f"left out: {name}: {why}")
    return kept


def _parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the verb's own words, lists in brackets, and those of the trainings."""
    from adbench.config.typed import declared

    names = declared(ReproduceKeys)[0]
    own, rest = [], []
    for word in words:
        key, _, value = word.partition("=")
        if key not in names:
            rest.append(word)
        elif key in _LISTS and "," in value and not value.startswith("["):
            own.append(f"{key}=[{value}]")
        else:
            own.append(word)
    return own, rest


def _list(words: Sequence[str]) -> int:
    """Print every table and figure: what reproduces it, and what has been run."""
    from adbench.reports.published import paper_names, read_paper
    from adbench.runs.files import read_record

    given: dict[str, str | None] = {"paper": None, "run.root": "outputs"}
    for word in words:
        key, _, value = word.partition("=")
        if key not in given or not value:
            raise UserError(f"'{word}': reproduce list takes paper=NAME and run.root=FOLDER")
        given[key] = value
    done: dict[tuple[str, str], list[str]] = {}
    for path in sorted(Path(str(given["run.root"])).expanduser().glob("sweeps/*/result.json")):
        try:
            found = read_record(path)
        except UserError:
            continue
        where = (str(found.get("paper")), str(found.get("table")))
        cells = found.get("cells")
        count = len(cells) if isinstance(cells, list) else 0
        done.setdefault(where, []).append(f"{found.get('scale')}: {count} cells")
    for name in [given["paper"]] if given["paper"] else paper_names():
        paper = read_paper(name)
        rows = [
            [
                table.id,
                table.what,
                table.kind,
                table.reproduce.answer,
                "; ".join(done.get((paper.id, table.id), [])) or "-",
                table.reproduce.why or "",
            ]
            for table in paper.tables
        ]
        header = ["table", "what", "kind", "reproduced", "run", "why not, or with what"]
        print_table(f"{paper.id}: {paper.title} ({paper.venue})", header, rows, plain=True)
        print()
    return 0
