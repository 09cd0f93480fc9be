"""``adbench runs``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adbench.cli.console import figure, print_table, say
from adbench.errors import UserError, nearest

HELP = """usage: adbench runs [run.root=outputs] [model=NAME] [dataset=NAME] [category=NAME]

Lists run folders: status, protocol, image and pixel AUROC, AUPRO, minutes."""

_PLACES = ("model", "dataset", "category")


def run(words: Sequence[str]) -> int:
    """Print one row per run folder; what cannot be read is named, the rest listed."""
    given = _given(words)
    root = Path(given["run.root"]).expanduser()
    rows, damaged = [], []
    for folder in sorted(found.parent for found in root.glob("*/*/*/*/run.json")):
        parts = dict(zip(_PLACES, folder.relative_to(root).parts, strict=False))
        if any(given[name] not in (None, parts[name]) for name in _PLACES):
            continue
        try:
            rows.append(_row(root, folder))
        except UserError as error:
            damaged.append(str(error))
    if not rows and not damaged:
        raise UserError(f"no run below {root}")
    header = ["run", "status", "protocol", "weights", "I-AUROC", "P-AUROC", "AUPRO", "min"]
    print_table(str(root), header, rows, plain=False)
    for line in damaged:
        say(f"not listed: {line}")
    return 0


def _given(words: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {"run.root": "outputs", "model": None, "dataset": None}
    given["category"] = None
    for word in words:
        key, _, value = word.partition("=")
        key = {"root": "run.root", "dataset.category": "category"}.get(key, key)
        if key not in given or not value:
            told = ", ".join(f"{name}=" for name in given)
            raise UserError(f"'{word}': runs takes {told}{nearest(key, given)}")
        given[key] = value
    return given


def _row(root: Path, folder: Path) -> list[str]:
    from adbench.runs.files import read_record

    record = read_record(folder / "run.json")
    metrics = read_record(folder / "metrics.json") if (folder / "metrics.json").exists() else {}
    weights, image, pixel = (_section(record, "weights"), *_sections(metrics, "image", "pixel"))
    total = _section(record, "seconds").get("total")
    return [
        folder.relative_to(root).as_posix(),
        str(record.get("status")),
        str(record.get("protocol")),
        "RANDOM" if weights.get("source") == "random" else str(weights.get("name", "-")),
        figure(image.get("auroc")),
        figure(pixel.get("auroc")),
        figure(pixel.get("aupro_30")),
        f"{total / 60:.1f}" if isinstance(total, int | float) else "-",
    ]


def _sections(document: Mapping[str, Any], *names: str) -> list[Mapping[str, Any]]:
    return [_section(document, name) for name in names]


def _section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}
