"""All CPU presets on all development categories: figures, minutes, difference to PatchCore.

    python benchmarks/presets.py --data ROOT --weights resnet18.safetensors --root outputs/presets
    python benchmarks/presets.py ... --methods patchcore_cpu,subspace_cpu --seeds 0

Every cell is `adbench train experiment=PRESET ... seed=S`, a process of its own with a run folder
of its own: what is finished is not run again, what was interrupted goes on. ROOT holds categories
in MVTec layout, at any depth. A variant is a preset with overrides:
`patchcore_cpu+model.bank=1000`. Minutes are those of the processor, all phases and the threshold
included: on a busy machine the clock says nothing. ``--speed CATEGORY`` times the detectors of one
category on a quiet machine; ``--store FILE`` keeps everything as JSON, beside what earlier calls
put there, from which `python -m docs.generate` makes the pages.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from presets_page import Row, table
from stored import store

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
BATCHES = (1, 8)  # of the speed


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
    rows = [row for cell in cells if (row := figures(cell, arguments.root))]
    print(table(rows))
    if arguments.store:
        key = ("preset", "category", "seed")
        store(arguments.store, _document(rows, cells, arguments), key)
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
    parser.add_argument("--speed", default=None, help="category whose detectors are timed")
    parser.add_argument("--store", type=Path, default=None, help="JSON file of all results")
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


def run_of(cell: Cell, root: Path) -> Path | None:
    """Return the run folder of a finished cell."""
    pattern = f"*/mvtec/{cell.folder.name}/seed{cell.seed}"
    for folder in _place(cell, root).glob(pattern):
        record = folder / "run.json"
        if not (folder / "metrics.json").is_file() or not record.is_file():
            continue
        if json.loads(record.read_text()).get("status") == "finished":
            return folder
    return None


def figures(cell: Cell, root: Path) -> Row | None:
    """Return what a finished cell came to; None where it is not finished."""
    folder = run_of(cell, root)
    if folder is None:
        return None
    found = json.loads((folder / "metrics.json").read_text())
    record = json.loads((folder / "run.json").read_text())
    threshold, spent = found["threshold"], _spent(cell, root)
    return {
        "preset": cell.method,
        "category": cell.folder.name,
        "seed": cell.seed,
        "image": found["image"]["auroc"],
        "pixel": found["pixel"]["auroc"],
        "minutes": float(spent.read_text()) / 60 if spent.is_file() else None,
        "megabytes": round(record["peak_memory"] / 1e6),
        "precision": threshold["precision"],
        "recall": threshold["recall"],
        "false alarms": threshold.get("false_alarm_rate"),
    }


def _document(
    rows: Sequence[Row], cells: Sequence[Cell], arguments: argparse.Namespace
) -> dict[str, Any]:
    command = ["python", "benchmarks/presets.py", "--data", "ROOT", "--weights", "RESNET18_FILE"]
    command += ["--methods", arguments.methods, "--seeds", arguments.seeds]
    command += ["--threads", str(arguments.threads)]
    command += ["--speed", arguments.speed] if arguments.speed else []
    return {
        "date": date.today().isoformat(),
        "machine": f"{processor()}, {arguments.threads} thread(s)",
        "command": shlex.join(command),
        "backbone": arguments.backbone,
        "categories": list(dict.fromkeys(cell.folder.name for cell in cells)),
        "rows": list(rows),
        "speed": _speeds(cells, arguments) if arguments.speed else {},
    }


def _speeds(cells: Sequence[Cell], arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return preset -> batch -> images a second of the network, one run a preset."""
    found = {}
    for cell in cells:
        folder = run_of(cell, arguments.root)
        if cell.folder.name != arguments.speed or cell.method in found or folder is None:
            continue
        print(f"speed of {cell.method}", file=sys.stderr, flush=True)
        words = [f"run={folder}", "engines=[eager]", f"batches=[{BATCHES[0]},{BATCHES[1]}]"]
        words += ["rounds=3", "seconds=1", f"threads={arguments.threads}", "plain=true"]
        subprocess.run(
            [sys.executable, "-m", "adbench", "benchmark", *words], check=True, capture_output=True
        )
        network = json.loads((folder / "benchmark.json").read_text())["network"]
        found[cell.method] = {
            batch: round(each["eager"]["images_per_second"], 1) for batch, each in network.items()
        }
    return found


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
