"""How many good pictures one needs: image AUROC over dataset.shots, on folders in MVTec layout.

    python benchmarks/learning_curve.py --data ROOT --remember --store learning_curve.json
    python benchmarks/learning_curve.py --presets glass_cpu --shots 8,50,all ...

Every cell is `adbench train experiment=PRESET dataset.shots=K seed=DRAW ...` with a run folder of
its own: what is finished is not run again. A draw is a seed: it chooses the pictures. `all` holds
every good picture and is run once. A preset with `+KEY=VALUE` behind it is that preset so changed.

``--store FILE`` keeps the rows beside those of earlier calls.

Networks are frozen in patchcore and its kin: with --remember the maps of a picture are computed
once for all cells and kept in memory (the same numbers: nothing but the network's passes is saved).
Test pictures of every draw are the same ones, all of the category's; masks are not read, since
pixel metrics would take most of the time. All pictures drawn are trained on, as under presets that
cross-fit their threshold; no threshold is made, since it decides nothing here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from presets import categories, processor
from stored import store

import adbench
from adbench.backbones.extractor import FeatureExtractor

SHOTS = "1,2,4,8,16,50,all"


def main() -> int:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    found = sorted(categories(arguments.data), key=lambda folder: len(list(folder.rglob("*.*"))))
    folders = [_without_masks(each, arguments.root) for each in found]  # the cheapest first
    rows: list[dict[str, Any]] = []
    for folder in folders:
        with _remembered(arguments.remember):
            for preset in arguments.presets.split(","):
                for shots in arguments.shots.split(","):
                    rows += _draws(preset, folder, shots, arguments)
                    _store(rows, arguments)
    print(table(rows))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder above the categories")
    parser.add_argument("--presets", default="quick")
    parser.add_argument("--shots", default=SHOTS)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--remember", action="store_true")
    parser.add_argument("--root", type=Path, default=Path("outputs/curve"))
    parser.add_argument("--store", type=Path, default=None, help="JSON file of all results")
    return parser.parse_args()


def _without_masks(folder: Path, root: Path) -> Path:
    """Return a folder of links to the category's pictures alone."""
    place = root / "pictures" / folder.name
    place.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        if not (place / part).exists():
            (place / part).symlink_to((folder / part).resolve())
    return place


def _draws(preset: str, folder: Path, shots: str, arguments: argparse.Namespace) -> list[Any]:
    """Return what the draws of one number of pictures came to; [] where there are too few."""
    there = sum(path.is_file() for path in (folder / "train/good").iterdir())
    if shots != "all" and int(shots) >= there:
        return []
    rows = []
    for seed in range(1 if shots == "all" else arguments.draws):
        start = time.perf_counter()
        found = _cell(preset, folder, shots, seed, arguments)
        rows.append({"preset": preset, "category": folder.name, "shots": shots, "seed": seed,
                     "pictures": there if shots == "all" else int(shots), **found})  # fmt: skip
        told = f"{preset} {folder.name} {shots} {seed}: {found}"
        print(f"{told} ({time.perf_counter() - start:.1f} s)", file=sys.stderr, flush=True)
    return rows


def _cell(
    preset: str, folder: Path, shots: str, seed: int, arguments: argparse.Namespace
) -> dict[str, float]:
    name, *overrides = preset.split("+")
    words = [
        f"experiment={name}",
        *overrides,
        "dataset=mvtec",
        f"dataset.root={folder.parent}",
        f"dataset.category={folder.name}",
        *([] if shots == "all" else [f"dataset.shots={shots}"]),
        "threshold.folds=0",
        "dataset.hold_out=0",
        f"seed={seed}",
        f"hardware.threads={arguments.threads}",
        f"run.root={arguments.root / preset.replace('=', '-')}",
        f"run.name=shots-{shots}-seed{seed}",
        "images.save=0",
        "plain=true",
    ]
    (run,) = adbench.train(*words)
    found = json.loads((run / "metrics.json").read_text())
    return {"image_auroc": found["image"]["auroc"]}


@contextmanager
def _remembered(wanted: bool) -> Iterator[None]:
    """Keep a frozen network's maps of every picture within the block."""
    whole = FeatureExtractor.forward
    maps: dict[bytes, list[torch.Tensor]] = {}

    def forward(self: FeatureExtractor, image: torch.Tensor) -> list[torch.Tensor]:
        if torch.is_grad_enabled():
            return whole(self, image)
        found = []
        for row in image:
            settled = repr((self.config, tuple(row.shape))).encode()
            key = hashlib.blake2b(row.numpy().tobytes() + settled, digest_size=16).digest()
            if key not in maps:
                maps[key] = [each[0].clone() for each in whole(self, row[None])]
            found.append(maps[key])
        return [torch.stack(each) for each in zip(*found, strict=True)]

    if wanted:
        FeatureExtractor.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        FeatureExtractor.forward = whole  # type: ignore[method-assign]


def _store(rows: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> None:
    if arguments.store is None:
        return
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{processor()}, {arguments.threads} thread(s)",
        "versions": {"adbench": adbench.__version__, "torch": torch.__version__},
        "command": "python benchmarks/learning_curve.py --data ROOT "
        f"--presets {arguments.presets} --shots {arguments.shots} --draws {arguments.draws}"
        f"{' --remember' if arguments.remember else ''}",
        "rows": list(rows),
    }
    store(arguments.store, document, ("preset", "category", "shots", "seed"))


def grouped(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return preset -> category -> shots -> image AUROC of each draw."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        place = found.setdefault(row["preset"], {}).setdefault(row["category"], {})
        place.setdefault(row["shots"], []).append(row["image_auroc"])
    return found


def shown(values: Sequence[float]) -> str:
    """Return mean, and deviation over draws where there are several."""
    if len(values) < 2:
        return f"{mean(values):.3f}"
    return f"{mean(values):.3f} ± {stdev(values):.3f}"


def in_order(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the numbers of pictures, ``all`` last."""
    return sorted({row["shots"] for row in rows}, key=lambda s: 10**9 if s == "all" else int(s))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return Markdown: a row a category, a column a number of pictures; mean ± deviation."""
    lines = []
    for preset, own in grouped(rows).items():
        columns = in_order(rows)
        name = " ".join(f"`{part}`" for part in preset.split("+"))  # so that it may be wrapped
        lines += [f"| {name} | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        for category, found in own.items():
            cells = [shown(found[c]) if c in found else "-" for c in columns]
            lines.append(f"| {category} | {' | '.join(cells)} |")
        whole = [n for n, found in own.items() if all(c in found for c in columns)]
        if len(whole) > 1:
            means = [f"{mean(mean(own[n][c]) for n in whole):.3f}" for c in columns]
            lines.append(f"| mean of {len(whole)} | {' | '.join(means)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
