"""All CPU presets on all development categories: figures, minutes, difference to PatchCore.

    python benchmarks/presets.py --data ROOT --weights resnet18.safetensors --root outputs/presets
    python benchmarks/presets.py ... --methods patchcore_cpu,subspace_cpu --seeds 0

Every cell is `adbench train experiment=PRESET ... seed=S`, a process of its own with a run folder
of its own: what is finished is not run again, what was interrupted goes on. ROOT holds categories
in MVTec layout, at any depth. A variant is a preset with overrides:
`patchcore_cpu+model.bank=1000`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

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
COLUMNS = ("image", "pixel", "minutes", "precision", "recall", "false alarms")


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
    print(table(cells, {cell: figures(cell, arguments.root) for cell in cells}))
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
    done = subprocess.run(
        [sys.executable, "-m", "adbench", "train", *words], capture_output=True, text=True
    )
    if done.returncode:
        print(done.stderr.strip()[-300:], file=sys.stderr)
    return done.returncode == 0


def figures(cell: Cell, root: Path) -> dict[str, float | None]:
    """Return what a finished cell came to, by the names of ``COLUMNS``; {} where it is not."""
    pattern = f"*/mvtec/{cell.folder.name}/seed{cell.seed}"
    for folder in _place(cell, root).glob(pattern):
        if not (folder / "metrics.json").is_file():
            continue
        found = json.loads((folder / "metrics.json").read_text())
        record = json.loads((folder / "run.json").read_text())
        if record.get("status") != "finished":
            continue
        threshold = found["threshold"]
        values = (
            found["image"]["auroc"],
            found["pixel"]["auroc"],
            record["seconds"]["total"] / 60,
            threshold["precision"],
            threshold["recall"],
            threshold.get("false_alarm_rate"),
        )
        return dict(zip(COLUMNS, values, strict=True))
    return {}


def _mean(cells: Sequence[dict[str, float | None]], column: str) -> float | None:
    values = [found[column] for found in cells if found.get(column) is not None]
    return mean(values) if values else None  # type: ignore[type-var]


def _shown(value: Any, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.3f}"


def table(cells: Sequence[Cell], found: dict[Cell, dict[str, float | None]]) -> str:
    """Return the table in Markdown: a row a method; image / pixel AUROC, means over seeds."""
    methods = list(dict.fromkeys(cell.method for cell in cells))
    names = list(dict.fromkeys(cell.folder.name for cell in cells))

    def mine(method: str, name: str | None = None) -> list[dict[str, float | None]]:
        return [
            found[c] for c in cells if c.method == method and name in (None, c.folder.name)
        ]  # fmt: skip

    def rows() -> Iterator[list[str]]:
        yield ["preset", *names, "mean", "worst", "to PatchCore", *COLUMNS[2:], "runs"]
        yield ["---"] * (len(names) + 5 + len(COLUMNS[2:]))
        for method in methods:
            own = {n: [_mean(mine(method, n), c) for c in COLUMNS[:2]] for n in names}
            base = {n: [_mean(mine(BASELINE, n), c) for c in COLUMNS[:2]] for n in names}
            cell = [" / ".join(map(_shown, own[n])) for n in names]
            average, worst, apart = [], [], []
            for place in (0, 1):
                have = {n: v[place] for n, v in own.items() if v[place] is not None}
                average.append(_shown(mean(have.values()) if have else None))  # type: ignore
                worst.append(_shown(min(have.values(), default=None)))  # type: ignore
                both = [v - base[n][place] for n, v in have.items() if base[n][place] is not None]
                apart.append(_shown(mean(both) if both else None, "+"))
            rest = [_shown(_mean(mine(method), column)) for column in COLUMNS[2:]]
            runs = sum(bool(each) for each in mine(method))
            yield [method, *cell, *map(" / ".join, (average, worst, apart)), *rest, str(runs)]

    return "\n".join(f"| {' | '.join(row)} |" for row in rows())


if __name__ == "__main__":
    sys.exit(main())
