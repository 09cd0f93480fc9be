"""Lines and tables on the screen; stdout carries results, stderr what is going on."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from adbench.config.typed import shown
from adbench.runs.summary import METRIC_COLUMNS


def say(line: str) -> None:
    """Print one line of progress on stderr, without what a terminal would obey."""
    print(shown(line, longest=2000), file=sys.stderr, flush=True)


def figure(value: Any) -> str:
    """Return a metric as a table shows it: percent-free, four digits, '-' where undefined."""
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def print_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, plain: bool
) -> None:
    """Print a table on stdout: rich on a terminal, aligned text elsewhere."""
    if plain or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        print(text_table(title, header, rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def text_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned plain table."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first = row[0].ljust(widths[0])
        return "  ".join([first, *[row[i].rjust(widths[i]) for i in range(1, len(row))]]).rstrip()

    return "\n".join([title, line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def metric_row(name: str, metrics: Mapping[str, Any]) -> list[str]:
    """Return one row of the metrics table."""
    values = [metrics.get(part, {}).get(key) for _, part, key in METRIC_COLUMNS]
    return [name, *map(figure, values)]
