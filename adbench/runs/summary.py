"""The mean row over categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adbench.errors import UserError
from adbench.runs.files import WAY_OUT, read_record, write_json

_SECTIONS = {
    "image": ("auroc", "ap", "f1max"),
    "pixel": ("auroc", "ap", "f1max", "aupro_30", "aupro_05"),
}


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return metrics.json of a run.

    Raises:
        UserError: the file is missing, broken or of another shape.
    """
    path = folder / "metrics.json"
    found = read_record(path)
    sections = (*_SECTIONS, "threshold")
    if "protocol" not in found or not all(isinstance(found.get(s), dict) for s in sections):
        raise UserError(f"{path} is damaged; {WAY_OUT}")
    return found


def mean_metrics(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return plain means of category values; a null is left out and counted in ``left_out``."""
    mean: dict[str, Any] = {"left_out": {}}
    for section, names in _SECTIONS.items():
        mean[section] = {}
        for name in names:
            values = [document[section].get(name) for document in documents]
            known = [value for value in values if value is not None]
            mean[section][name] = sum(known) / len(known) if known else None
            if len(known) < len(values):
                mean["left_out"][f"{section}.{name}"] = len(values) - len(known)
    return mean


def write_summary(
    path: Path, found: Mapping[str, Mapping[str, Any]], folders: Sequence[Path]
) -> None:
    """Write the categories' figures, their folders and the mean row."""
    rows = {
        name: {section: document[section] for section in _SECTIONS}
        for name, document in found.items()
    }
    protocols = sorted({document["protocol"] for document in found.values()})
    document = {
        "schema": 1,
        "protocol": protocols[0] if len(protocols) == 1 else "mixed",
        "categories": rows,
        "mean": mean_metrics(list(found.values())),
        "folders": [folder.as_posix() for folder in folders],
    }
    write_json(path, document)
