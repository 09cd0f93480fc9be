"""All CPU presets on all development categories: figures, minutes, difference to PatchCore.

    python benchmarks/presets.py --data ROOT --weights resnet18.safetensors --root outputs/presets
    python benchmarks/presets.py ... --methods patchcore_cpu,subspace_cpu --seeds 0

Every cell is `adbench train experiment=PRESET ... seed=S`, a process of its own with a run folder
of its own: what is finished is not run again, what was interrupted goes on. ROOT holds categories
in MVTec layout, at any depth. A variant is a preset with overrides:
`patchcore_cpu+model.bank=1000`. Minutes are those of the processor, all phases and the threshold
included: on a busy machine the clock says nothing. ``--docs FILE`` writes what there is as a page.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import mean
from typing import NamedTuple

PRESETS = (
    "patchcore_cpu",
    "subspace_cpu",
    "padim_cpu",
    "reference_cpu",
    "simplenet_cpu",
    "dfr_cpu",
    "glass_cpu",
    "ulsad_cpu",
    "realnet_cpu",
)
WITHOUT_NETWORK = ("reference",)
BASELINE = "patchcore_cpu"
AUROC = ("image", "pixel")
AT_THRESHOLD = ("precision", "recall", "false alarms")
Figures = dict[str, float | None]


class Cell(NamedTuple):
    """One training: preset with its overrides, category folder, seed."""

    method: str
    folder: Path
    seed: int


def main() -> int:
    arguments = _arguments()
    folders = categories(arguments.data)
    if not folders:
        print(f"{arguments.data}: no folder with train/good and test in it", file=sys.stderr)
        return 2
    cells = [
        Cell(method, folder, seed)
        for method in arguments.methods.split(",")
        for folder in folders
        for seed in map(int, arguments.seeds.split(","))
    ]
    failed = 0
    for number, cell in enumerate(cells, 1):
        print(f"[{number}/{len(cells)}] {cell.method} {cell.folder.name} seed {cell.seed}",
              file=sys.stderr, flush=True)  # fmt: skip
        failed += 0 if arguments.table or _run(cell, arguments) else 1
    found = {cell: figures(cell, arguments.root) for cell in cells}
    print(table(found))
    if arguments.docs:
        arguments.docs.write_text(page(found, arguments))
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder above the categories")
    parser.add_argument("--weights", type=Path, default=None, help="file of --backbone")
    parser.add_argument("--backbone", default="resnet18", help="the same for every method")
    parser.add_argument("--methods", default=",".join(PRESETS), help="presets, with + overrides")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--root", type=Path, default=Path("outputs/presets"))
    parser.add_argument("--table", action="store_true", help="run nothing; print what is there")
    parser.add_argument("--docs", type=Path, default=None, help="page to write, Markdown")
    return parser.parse_args()


def categories(root: Path) -> list[Path]:
    """Return the folders below ``root`` that hold train/good and test."""
    found = {path.parent.parent for path in root.rglob("train/good") if path.is_dir()}
    return sorted(folder for folder in found if (folder / "test").is_dir())


def _place(cell: Cell, root: Path) -> Path:
    return root / cell.method.replace("=", "-").replace("/", "-")


def _run(cell: Cell, arguments: argparse.Namespace) -> bool:
    """Run one cell unless it is finished; return whether it is finished now."""
    if figures(cell, arguments.root):
        return True
    preset, *overrides = cell.method.split("+")
    words = [f"experiment={preset}", *overrides]
    if not preset.startswith(WITHOUT_NETWORK):
        words.append(f"backbone={arguments.backbone}")
        words += [f"backbone.weights={arguments.weights}"] if arguments.weights else []
    words += [
        "dataset=mvtec",
        f"dataset.root={cell.folder.parent}",
        f"dataset.category={cell.folder.name}",
        f"seed={cell.seed}",
        f"hardware.threads={arguments.threads}",
        f"run.root={_place(cell, arguments.root)}",
        f"run.name=seed{cell.seed}",
        "images.save=0",
        "plain=true",
    ]
    before = _children()
    done = subprocess.run(
        [sys.executable, "-m", "adbench", "train", *words], capture_output=True, text=True
    )
    spent = _spent(cell, arguments.root)
    spent.parent.mkdir(parents=True, exist_ok=True)
    earlier = float(spent.read_text()) if spent.is_file() else 0.0  # of what was interrupted
    spent.write_text(f"{earlier + _children() - before:.1f}\n")
    if done.returncode:
        print(done.stderr.strip()[-300:], file=sys.stderr)
    return done.returncode == 0


def _children() -> float:
    """Return the processor seconds of all children that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _spent(cell: Cell, root: Path) -> Path:
    return _place(cell, root) / f"{cell.folder.name}-seed{cell.seed}.seconds"


def figures(cell: Cell, root: Path) -> Figures:
    """Return what a finished cell came to; {} where it is not finished."""
    pattern = f"*/mvtec/{cell.folder.name}/seed{cell.seed}"
    for folder in _place(cell, root).glob(pattern):
        if not (folder / "metrics.json").is_file():
            continue
        found = json.loads((folder / "metrics.json").read_text())
        if json.loads((folder / "run.json").read_text()).get("status") != "finished":
            continue
        threshold, spent = found["threshold"], _spent(cell, root)
        return {
            "image": found["image"]["auroc"],
            "pixel": found["pixel"]["auroc"],
            "minutes": float(spent.read_text()) / 60 if spent.is_file() else None,
            "precision": threshold["precision"],
            "recall": threshold["recall"],
            "false alarms": threshold.get("false_alarm_rate"),
        }
    return {}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _shown(*values: float | None, sign: str = "", digits: int = 3) -> str:
    """Return values as a cell; "-" where there is none."""
    return " / ".join("-" if v is None else f"{v:{sign}.{digits}f}" for v in values)


class Results:
    """Figures of all cells, asked for by preset and category as means over seeds."""

    def __init__(self, found: dict[Cell, Figures]) -> None:
        self.found = {cell: figures for cell, figures in found.items() if figures}
        self.methods = list(dict.fromkeys(cell.method for cell in self.found))
        self.names = list(dict.fromkeys(cell.folder.name for cell in found))

    def of(self, method: str, name: str, column: str) -> float | None:
        """Return the mean over seeds."""
        own = [f for c, f in self.found.items() if (c.method, c.folder.name) == (method, name)]
        return _mean([figures[column] for figures in own])

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
        counts = [sum((c.method, c.folder.name) == (method, n) for c in self.found)
                  for n in self.names]  # fmt: skip
        have = sorted(count for count in counts if count)
        seeds = str(have[0]) if have[0] == have[-1] else f"{have[0]} to {have[-1]}"
        return seeds if len(have) == len(counts) else f"{seeds}, {len(have)} of {len(counts)} sets"


def _lines(rows: Sequence[Sequence[str]]) -> str:
    head = [rows[0], ["---"] * len(rows[0])]
    return "\n".join(f"| {' | '.join(row)} |" for row in [*head, *rows[1:]])


def table(found: dict[Cell, Figures]) -> str:
    """Return the table in Markdown: a row a preset; image / pixel AUROC, means over seeds."""
    all_of = Results(found)
    rows = [["preset", *all_of.names, "mean", "to PatchCore", "worst of these", "minutes", "seeds"]]
    for method in all_of.methods:
        every = [all_of.every(method, column) for column in AUROC]
        apart = [all_of.apart(method, column) for column in AUROC]
        rows.append(
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
    return _lines(rows)


def threshold_table(found: dict[Cell, Figures]) -> str:
    """Return the table of precision / recall / false alarms at each run's own threshold."""
    all_of = Results(found)
    rows = [["preset", *all_of.names, "mean"]]
    for method in all_of.methods:
        every = [all_of.every(method, column) for column in AT_THRESHOLD]
        rows.append(
            [
                f"`{method}`",
                *(_shown(*(e.get(name) for e in every), digits=2) for name in all_of.names),
                _shown(*(_mean(list(e.values())) for e in every), digits=2),
            ]
        )
    return _lines(rows)


def page(found: dict[Cell, Figures], arguments: argparse.Namespace) -> str:
    """Return the page: both tables, when and by which command."""
    command = ["python", "benchmarks/presets.py", "--data", "ROOT", "--weights", "RESNET18_FILE"]
    command += ["--methods", arguments.methods, "--seeds", arguments.seeds]
    command += ["--threads", str(arguments.threads), "--docs", str(arguments.docs)]
    return f"""\
# CPU presets on the development categories

Written by `benchmarks/presets.py` on {date.today().isoformat()}:

```
{shlex.join(command)}
```

Backbone {arguments.backbone} for every preset, protocol=honest, {arguments.threads} thread(s);
presets may have been chosen on these categories, test images seen, so that what counts is measured
on others. A "-" has no masks, or was not run; means are over what was run, so that presets are
compared by "to PatchCore" alone.

## Image / pixel AUROC

"To PatchCore" is the mean difference on the categories that both have, "worst of these" the
smallest; minutes of the processor a category.

{table(found)}

## At each run's own threshold: precision / recall / false alarms

One-pass presets cross-fit it on all normal images, the others take it from held-out ones.

{threshold_table(found)}
"""


if __name__ == "__main__":
    sys.exit(main())
