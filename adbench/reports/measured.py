"""What finished runs measured; everything in their folders is hostile until it is read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adbench.errors import UserError
from adbench.metrics import VERSION
from adbench.runs.files import read_record, read_yaml

# metric of a printed table -> where metrics.json has ours
OURS: dict[str, tuple[str, str]] = {
    "image_auroc": ("image", "auroc"),
    "image_ap": ("image", "ap"),
    "image_f1max": ("image", "f1max"),
    "pixel_auroc": ("pixel", "auroc"),
    "pixel_ap": ("pixel", "ap"),
    "pixel_f1max": ("pixel", "f1max"),
    "pro": ("pixel", "aupro_30"),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One finished run.

    Attributes:
        honest: metric -> figure in 0..1, nothing chosen on the test set.
        paper: the same by the paper's protocol: best epoch on test, its own PRO.
        minutes: of the whole run; None where it is not recorded.
        images_per_second: of testing.
        facts: protocol, device, data, code and weights, as recorded.
    """

    folder: Path
    honest: dict[str, float]
    paper: dict[str, float]
    minutes: float | None
    images_per_second: float | None
    facts: dict[str, str] = field(default_factory=dict)


def read_measured(folder: Path) -> Measured | None:
    """Return what a run measured; None where it is not finished or not whole."""
    try:
        record = read_record(folder / "run.json")
        document = read_record(folder / "metrics.json")
    except (UserError, OSError):
        return None
    if record.get("status") != "finished":
        return None
    figures = {name: at(document, *keys) for name, keys in OURS.items()}
    found = {name: value for name, value in figures.items() if value is not None}
    chosen = document.get("protocol") == "paper"
    test = at(document, "seconds", "inference")
    images = _images(document)
    seconds = at(record, "seconds", "total")
    return Measured(
        folder,
        {} if chosen else found,
        {**(found if chosen else {}), **_by_paper(document)},
        None if seconds is None else seconds / 60,
        images / test if images and test else None,
        _facts(record, document),
    )


def _by_paper(document: Mapping[str, Any]) -> dict[str, float]:
    """Return what the best epoch on test gave, and a repository's own PRO of the last one."""
    found = {name: at(document, "oracle", name) for name in ("image_auroc", "pixel_auroc")}
    flavours = [key for key in _section(document, "pixel") if str(key).startswith("pro_")]
    if flavours:
        found["pro"] = at(document, "pixel", flavours[0])
    return {name: value for name, value in found.items() if value is not None}


def _images(document: Mapping[str, Any]) -> int:
    names = ("good", "defective", "unlabelled")
    return sum(int(at(document, "counts", name) or 0) for name in names)


def outdated(run: Measured) -> bool:
    """Whether a run's figures are by other definitions than today's, and so not comparable."""
    return run.facts.get("metrics", str(VERSION)) != str(VERSION)


def _facts(record: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, str]:
    identity = _section(record, "identity")
    environment = _section(record, "environment")
    weights = _section(record, "weights")
    data = json.dumps(_section(identity, "data"), sort_keys=True, default=str)
    return {
        "protocol": str(document.get("protocol")),
        "device": str(environment.get("device")),
        "cores": str(environment.get("cores")),
        "threads": str(environment.get("threads")),
        "code": str(identity.get("code")),
        "git": str(environment.get("git")),
        "data": hashlib.sha256(data.encode()).hexdigest()[:12],
        "weights": str(weights.get("source")),
        "metrics": str(document.get("metrics_version", 1)),  # older folders do not say
    }


def _section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def at(document: Mapping[str, Any], *keys: str) -> float | None:
    """Return the finite number under nested keys; None where there is none."""
    found: Any = document
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


# What says where and how a run is made, not what: two machines' runs differ in it.
_ELSEWHERE = ("dataset.root=", "run.", "hardware.", "plain=", "logger", "images.")


def elsewhere(word: str) -> bool:
    """Whether an override says where and how, not what."""
    return word.startswith(_ELSEWHERE)


def same_request(words: tuple[str, ...], folder: Path) -> bool:
    """Whether a run was started with these overrides, machine and place apart."""
    try:
        stored = _overrides(folder)
    except (UserError, OSError):
        return False
    return stored is not None and _deciding(stored) == _deciding(words)


def _deciding(words: tuple[str, ...]) -> dict[str, str]:
    kept = [word for word in words if not elsewhere(word)]
    return {key: value for key, _, value in (word.partition("=") for word in kept)}


def _overrides(folder: Path) -> tuple[str, ...] | None:
    import yaml

    path = folder / "overrides.yaml"
    if not path.is_file() or path.stat().st_size > 1 << 20:
        return None
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return tuple(map(str, found)) if isinstance(found, list) else None


def read_config(folder: Path) -> dict[str, Any]:
    """Return a run's resolved configuration; empty where it cannot be read."""
    try:
        return read_yaml(folder / "config.yaml")
    except (UserError, OSError):
        return {}
