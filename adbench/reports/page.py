"""One page of what was run: facts in, text out. Nothing in it asks for another file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from adbench.errors import UserError
from adbench.reports import charts
from adbench.reports.detail import details_of
from adbench.reports.facts import RunFacts
from adbench.reports.leaderboard import (
    by_category,
    cell_text,
    config_differences,
    defect_matrix,
    leaderboards,
    text_rows,
)
from adbench.reports.searches import shown_searches
from adbench.reports.settings import ReportKeys
from adbench.reports.tables import csv_table, latex_table, markdown_table
from adbench.runs.summary import METRIC_COLUMNS


def environment() -> Environment:
    """Return the templates; whatever is put into them is escaped: names of files are hostile."""
    made = Environment(
        loader=PackageLoader("adbench.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["figure"] = lambda value: "-" if value is None else f"{value:.4f}"
    made.filters["short"] = lambda value: "-" if value is None else f"{value:.1f}"
    made.filters["cell"] = cell_text
    made.globals["raw"] = lambda name: Markup(made.get_template(name).render())
    return made


def page(runs: Sequence[RunFacts], skipped: Sequence[str], keys: ReportKeys) -> str:
    """Return the whole page as HTML.

    Args:
        skipped: what was found and is not reported, one line each.
    """
    boards = leaderboards(runs)
    details, left_out = details_of(runs, keys)
    return (
        environment()
        .get_template("page.html")
        .render(
            title=keys.title,
            runs=runs,
            boards=boards,
            columns=[name for name, _, _ in METRIC_COLUMNS],
            speed={name: _speed(rows) for name, rows in boards.items()},
            categories=by_category(runs),
            defects=defect_matrix(runs),
            details=details,
            differences=config_differences([detail.run for detail in details]),
            left_out=left_out,
            searches=shown_searches(Path(keys.runs).expanduser()),
            skipped=skipped,
        )
    )


def _speed(rows: Sequence[Any]) -> Markup | None:
    """Return image AUROC against speed, where more than one method has both."""
    points = [
        (row.label, row.images_per_second, row.cells["image AUROC"].mean)
        for row in rows
        if row.images_per_second and row.cells["image AUROC"] is not None
    ]
    if not points:
        return None
    speeds = [x for _, x, _ in points]
    low = min(math.floor(min(y for _, _, y in points) * 20) / 20, 0.95)
    axes = (
        charts.Axis("images a second, testing", min(speeds) / 2, max(speeds) * 2, log=True),
        charts.Axis("image AUROC", low, 1.0),
    )
    return charts.scatter("speed against accuracy", axes, points)


def markdown(runs: Sequence[RunFacts], skipped: Sequence[str], keys: ReportKeys) -> str:
    """Return the leaderboards as Markdown, for papers and comments of a CI."""
    parts = [f"# {keys.title}\n"]
    for dataset, rows in leaderboards(runs).items():
        parts.append(f"## {dataset}\n\n{markdown_table(*text_rows(rows))}")
    parts += [
        f"## {name}, by category (image AUROC / AUPRO 0.3)\n\n{markdown_table(*table)}"
        for name, table in by_category(runs).items()
    ]
    parts += [f"- not reported: {line}" for line in skipped[:20]]
    parts.append(f"Intervals: 95 %, {keys.bootstrap} bootstrap samples of the test images.\n")
    return "\n".join(parts)


def csv_text(runs: Sequence[RunFacts]) -> str:
    """Return one line a run, every figure in full."""
    header = ["dataset", "category", "method", "seed", "protocol", "backbone"]
    header += [name for name, _, _ in METRIC_COLUMNS] + ["minutes", "img/s", "marks", "folder"]
    rows = [
        [
            run.dataset,
            run.category,
            run.label,
            run.seed,
            run.protocol,
            run.backbone,
            *[_full(run.figure(part, key)) for _, part, key in METRIC_COLUMNS],
            _full(run.minutes),
            _full(run.images_per_second),
            "; ".join(run.marks),
            run.folder.as_posix(),
        ]
        for run in runs
    ]
    return csv_table(header, rows)


def _full(value: float | None) -> str:
    return "" if value is None else repr(value)


def latex(runs: Sequence[RunFacts]) -> str:
    """Return one table a data set."""
    found = []
    for dataset, rows in leaderboards(runs).items():
        header, body = text_rows(rows)
        found.append(latex_table(f"{dataset}", header, body))
    return "\n".join(found)


def rendered(runs: Sequence[RunFacts], skipped: Sequence[str], keys: ReportKeys) -> dict[str, str]:
    """Return suffix -> text of every format that is asked for."""
    makers = {
        "html": lambda: page(runs, skipped, keys),
        "md": lambda: markdown(runs, skipped, keys),
        "csv": lambda: csv_text(runs),
        "latex": lambda: latex(runs),
    }
    wanted = makers if keys.format == "all" else {keys.format: makers[keys.format]}
    return {"tex" if name == "latex" else name: make() for name, make in wanted.items()}


def found_folders(pattern: str) -> list[Path]:
    """Return the run folders that a folder or a pattern means.

    Raises:
        UserError: there is none.
    """
    base = Path(pattern).expanduser()
    if base.is_dir():
        files = [base / "run.json"] if (base / "run.json").is_file() else base.rglob("run.json")
        found = sorted(path.parent for path in files)
    else:
        anchor = Path(base.anchor or ".")
        relative = base.relative_to(anchor) if base.anchor else base
        try:
            found = sorted(p for p in anchor.glob(str(relative)) if (p / "run.json").is_file())
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"runs={pattern}: {error}") from error
    inner = ("held_out",)  # the first training of a refit is part of its run
    found = [path for path in found if path.name not in inner]
    if not found:
        raise UserError(f"no run in {pattern}; runs=FOLDER or runs='outputs/glass/*/*/seed0*'")
    return found
