"""``adbench runs``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adbench.cli.console import figure, print_table
from adbench.errors import UserError

HELP = """usage: adbench runs [root=outputs] [model=NAME] [dataset=NAME]

Lists run folders: status, protocol, image and pixel AUROC, AUPRO, minutes."""


def run(words: Sequence[str]) -> int:
    """Print one row per run folder."""
    given = {"root": "outputs", "model": "*", "dataset": "*"}
    for word in words:
        key, _, value = word.partition("=")
        if key not in given or not value:
            raise UserError(f"'{word}': runs takes root=, model=, dataset=")
        given[key] = value
    root = Path(given["root"])
    found = sorted(root.glob(f"{given['model']}/{given['dataset']}/*/*/run.json"))
    if not found:
        raise UserError(f"no run below {root}")
    rows = [_row(root, path.parent) for path in found]
    header = ["run", "status", "protocol", "weights", "I-AUROC", "P-AUROC", "AUPRO", "min"]
    print_table(str(root), header, rows, plain=False)
    return 0


def _row(root: Path, folder: Path) -> list[str]:
    from adbench.runs.files import read_json

    record = read_json(folder / "run.json")
    path = folder / "metrics.json"
    metrics = read_json(path) if path.is_file() else {"image": {}, "pixel": {}}
    total = record.get("seconds", {}).get("total")
    weights = record.get("weights", {}).get("source") or "-"
    return [
        folder.relative_to(root).as_posix(),
        str(record.get("status")),
        str(record.get("protocol")),
        "RANDOM" if weights == "random" else str(record.get("weights", {}).get("name", "-")),
        figure(metrics["image"].get("auroc")),
        figure(metrics["pixel"].get("auroc")),
        figure(metrics["pixel"].get("aupro_30")),
        "-" if total is None else f"{total / 60:.1f}",
    ]
