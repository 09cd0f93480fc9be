"""Tables of what `benchmarks/presets.py` measured, and the pages that show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

BASELINE = "patchcore_cpu"
AUROC = ("image", "pixel")
AT_THRESHOLD = ("precision", "recall", "false alarms")
CHOICE = (
    *("preset", "sets", "image / pixel AUROC", "least image", "to PatchCore, same sets"),
    *("minutes", "img/s, batch 1 / 8", "peak MB"),
)
Row = dict[str, Any]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _shown(*values: float | None, sign: str = "", digits: int = 3) -> str:
    """Return values as a cell; "-" where there is none."""
    return " / ".join("-" if v is None else f"{v:{sign}.{digits}f}" for v in values)


class Results:
    """Figures of all cells, asked for by preset and category as means over seeds."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.methods = list(dict.fromkeys(row["preset"] for row in rows))
        self.names = list(dict.fromkeys(row["category"] for row in rows))

    def of(self, method: str, name: str, column: str) -> float | None:
        """Return the mean over seeds."""
        own = [row for row in self.rows if (row["preset"], row["category"]) == (method, name)]
        return _mean([row[column] for row in own])

    def every(self, method: str, column: str) -> dict[str, float]:
        """Return category -> figure, of categories that have one."""
        found = {name: self.of(method, name, column) for name in self.names}
        return {name: value for name, value in found.items() if value is not None}

    def apart(self, method: str, column: str) -> list[float]:
        """Return the differences to the baseline on the categories that both have."""
        own, base = self.every(method, column), self.every(BASELINE, column)
        return [value - base[name] for name, value in own.items() if name in base]

    def seeds(self, method: str) -> str:
        """Return how many seeds a category has: "3", or "1 to 3"; categories left out are told."""
        counts = [
            sum((row["preset"], row["category"]) == (method, name) for row in self.rows)
            for name in self.names
        ]
        have = sorted(count for count in counts if count)
        seeds = str(have[0]) if have[0] == have[-1] else f"{have[0]} to {have[-1]}"
        return seeds if len(have) == len(counts) else f"{seeds}, {len(have)} of {len(counts)} sets"


def _lines(rows: Sequence[Sequence[str]]) -> str:
    head = [rows[0], ["---"] * len(rows[0])]
    return "\n".join(f"| {' | '.join(row)} |" for row in [*head, *rows[1:]])


def table(rows: Sequence[Row]) -> str:
    """Return the table in Markdown: a row a preset; image / pixel AUROC, means over seeds."""
    all_of = Results(rows)
    made = [["preset", *all_of.names, "mean", "to PatchCore", "worst of these", "minutes", "seeds"]]
    for method in all_of.methods:
        every = [all_of.every(method, column) for column in AUROC]
        apart = [all_of.apart(method, column) for column in AUROC]
        made.append(
            [
                f"`{method}`",
                *(_shown(*(e.get(name) for e in every)) for name in all_of.names),
                _shown(*(_mean(list(e.values())) for e in every)),
                _shown(*(_mean(a) for a in apart), sign="+"),
                _shown(*(min(a, default=None) for a in apart), sign="+"),
                _shown(_mean(list(all_of.every(method, "minutes").values())), digits=1),
                all_of.seeds(method),
            ]
        )
    return _lines(made)


def threshold_table(rows: Sequence[Row]) -> str:
    """Return the table of precision / recall / false alarms at each run's own threshold."""
    all_of = Results(rows)
    made = [["preset", *all_of.names, "mean"]]
    for method in all_of.methods:
        every = [all_of.every(method, column) for column in AT_THRESHOLD]
        made.append(
            [
                f"`{method}`",
                *(_shown(*(e.get(name) for e in every), digits=2) for name in all_of.names),
                _shown(*(_mean(list(e.values())) for e in every), digits=2),
            ]
        )
    return _lines(made)


def choice_table(document: Mapping[str, Any]) -> str:
    """Return what a choice needs: accuracy, its worst case, cost, speed, memory; a row a preset."""
    all_of = Results(document["rows"])
    made = [list(CHOICE)]
    for method in all_of.methods:
        every = [all_of.every(method, column) for column in AUROC]
        apart = [all_of.apart(method, column) for column in AUROC]
        speed = document["speed"].get(method, {})
        made.append(
            [
                f"`{method}`",
                str(len(every[0])),
                _shown(*(_mean(list(e.values())) for e in every)),
                _shown(min(every[0].values(), default=None)),
                _shown(*(_mean(a) for a in apart), sign="+"),
                _shown(_mean(list(all_of.every(method, "minutes").values())), digits=1),
                _shown(speed.get("1"), speed.get("8"), digits=0),
                _shown(max(all_of.every(method, "megabytes").values(), default=None), digits=0),
            ]
        )
    return _lines(made)


def page(document: Mapping[str, Any]) -> str:
    """Return docs/presets.md: both tables, when, where and by which command."""
    return f"""\
# CPU presets on the development categories

Generated from `docs/measured/presets.json`; {document["date"]}, {document["machine"]}, by

```
{document["command"]}
```

Backbone {document["backbone"]} for every preset, protocol=honest;
presets may have been chosen on these categories, test images seen, so that what counts is measured
on others. A "-" has no masks, or was not run; means are over what was run, so that presets are
compared by "to PatchCore" alone.

## Image / pixel AUROC

"To PatchCore" is the mean difference on the categories that both have, "worst of these" the
smallest; minutes of the processor a category.

{table(document["rows"])}

## At each run's own threshold: precision / recall / false alarms

PatchCore, GLASS, subspace, PaDiM and the reference cross-fit it on all normal images, the others
take it from held-out ones.

{threshold_table(document["rows"])}
"""
