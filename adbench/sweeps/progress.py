"""Tells what becomes of a sweep's cells: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from adbench.sweeps.engine import Outcome
from adbench.sweeps.grid import Cell
from adbench.sweeps.table import SweepTable


class Progress:
    """What an engine reports to.

    Args:
        live: show a table that is drawn anew, instead of one line a cell.
        retry_failed: cells that failed in an earlier sweep are due again.
    """

    def __init__(
        self, table: SweepTable, say: Callable[[str], None], *, live: bool, retry_failed: bool
    ) -> None:
        self.table, self.say, self.retry_failed = table, say, retry_failed
        self._live = _live() if live else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def due(self, cell: Cell) -> bool:
        """Whether a cell is to be run; one that another controller settled meanwhile is not."""
        status = self.table.status(cell)
        if status == "finished" or self.table.ended_meanwhile(cell):
            return False
        return status != "failed" or self.retry_failed

    def hopeless(self, cell: Cell) -> str | None:
        """A cell of a grid always goes on to its end."""
        del cell
        return None

    def more(self, room: int) -> Sequence[Cell]:
        """A grid has no cells but those it began with."""
        del room
        return []

    def unsettled(self) -> bool:
        """A grid is through when all of its cells are."""
        return False

    def rest(self) -> None:
        """Write the tables, where there is time for it."""
        self.table.write_in_time()

    def lost(self, cell: Cell, reason: str) -> None:
        self._tell(f"{_named(cell)}  {reason}; it is started again")

    def started(self, cell: Cell) -> None:
        self.table.set_running(cell)
        self._draw()

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        self.table.set_outcome(cell, outcome)
        why = f": {outcome.reason}" if outcome.reason else ""
        told = f"{_named(cell)}  {outcome.status} in {outcome.seconds:.0f} s{why}"
        self._tell(told)
        self._draw()

    def _tell(self, line: str) -> None:
        if self._live is None:
            self.say(f"{line}  {_counted(self.table)}")
        else:
            self._live.console.print(line)

    def _draw(self) -> None:
        if self._live is not None and self.table.latest(1):
            self._live.update(_rich_table(self.table))


def _named(cell: Cell) -> str:
    return " ".join(f"{key}={value}" for key, value in cell.values.items())


def _counted(table: SweepTable) -> str:
    return "(" + ", ".join(f"{n} {status}" for status, n in table.counts().items()) + ")"


def _live() -> Any:
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(stderr=True), auto_refresh=False)


def _rich_table(table: SweepTable) -> Any:
    from rich.table import Table

    shown = Table(title=_counted(table))
    entries = table.latest(40)[::-1]
    keys = list(entries[0]["values"])
    for name in [*keys, "status", "image AUROC", "pixel AUROC", "AUPRO 0.3"]:
        shown.add_column(name)
    for entry in entries:
        figures = entry.get("metrics", {})
        values = [figures.get(name) for name in ("image_auroc", "pixel_auroc", "aupro_30")]
        shown.add_row(
            *[entry["values"].get(key, "") for key in keys],
            entry["status"],
            *["-" if value is None else f"{value:.4f}" for value in values],
        )
    return shown
