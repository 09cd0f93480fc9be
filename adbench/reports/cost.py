"""What a training will take: from earlier runs on this machine."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adbench.reports.measured import at, read_config
from adbench.runs.files import read_record
from adbench.runs.registry import run_folders


@dataclass(frozen=True, slots=True)
class Rate:
    """Speed of an earlier run of one kind."""

    kind: tuple[str, ...]
    train: float
    rest: float


def kind_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what decides how fast a run trains, as far as a configuration shows it."""
    keys = (
        ("model", "name"),
        ("dataset", "image_size"),
        ("backbone", "name"),
        ("hardware", "threads"),
        ("hardware", "accelerator"),
    )
    return tuple(str((config.get(group) or {}).get(key)) for group, key in keys)


def budget(config: Mapping[str, Any], images: int = 300) -> int:
    """Return how many pictures a training will see.

    Args:
        images: training pictures of a category, where an epoch is all of them.
    """
    train = config["train"]
    if train["steps"]:
        return int(train["steps"]) * int(train["batch_size"])
    epoch = int(train["epoch_images"] or images)
    return int(train["epochs"] or 1) * epoch


def rates(root: Path, device: str) -> list[Rate]:
    """Return the rates of finished runs below ``root`` that this machine made."""
    found = []
    for folder in run_folders(root):
        rate = _rate(folder, device)
        if rate is not None:
            found.append(rate)
    return found


def _rate(folder: Path, device: str) -> Rate | None:
    from adbench.errors import UserError

    try:
        record = read_record(folder / "run.json")
        if (record.get("environment") or {}).get("device") != device:
            return None
        speeds = _speeds(folder / "history.csv")
    except (UserError, OSError, ValueError, AttributeError):
        return None
    total, fit = at(record, "seconds", "total"), at(record, "seconds", "fit")
    if not speeds or total is None or fit is None:
        return None
    return Rate(kind_of(read_config(folder)), statistics.median(speeds), max(total - fit, 0.0))


def _speeds(path: Path) -> list[float]:
    if not path.is_file() or path.stat().st_size > 16 << 20:
        return []
    with open(path, encoding="utf-8", newline="") as rows:
        values = [row.get("img_per_s") for row in csv.DictReader(rows)]
    return [float(value) for value in values if value and float(value) > 0]


def minutes(config: Mapping[str, Any], known: Sequence[Rate]) -> float | None:
    """Return an estimate for one cell; None where nothing alike was ever run here."""
    limit = config["train"]["minutes"]
    alike = [rate for rate in known if rate.kind == kind_of(config)]
    if not alike:
        return float(limit) if limit else None
    train = budget(config) / statistics.median(rate.train for rate in alike) / 60
    rest = statistics.median(rate.rest for rate in alike) / 60
    return (min(train, float(limit)) if limit else train) + rest
