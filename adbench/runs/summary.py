"""The mean row over categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adbench.errors import UserError
from adbench.runs.files import WAY_OUT, read_record, write_json

# heading, section and key of metrics.json: the columns of every table of figures
METRIC_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("image AUROC", "image", "auroc"),
    ("image AP", "image", "ap"),
    ("image F1", "image", "f1max"),
    ("pixel AUROC", "pixel", "auroc"),
    ("pixel AP", "pixel", "ap"),
    ("AUPRO 0.3", "pixel", "aupro_30"),
    ("AUPRO 0.05", "pixel", "aupro_05"),
)
_SECTIONS = ("image", "pixel")
# What is no figure, or none that a mean has.
_NO_MEAN = ("f1max_threshold", "why", "bounds")


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
    """Return plain means of category values; a null is left out and counted in ``left_out``.

    Where all categories tell kinds of anomaly apart, ``by_kind`` and ``spro`` are means too: the
    headline of MVTec LOCO is the mean over categories of the mean of both kinds.
    """
    left_out: dict[str, int] = {}
    mean: dict[str, Any] = {"left_out": left_out}
    for section in (*_SECTIONS, "by_kind", "spro"):
        found = [document.get(section) for document in documents]
        if all(isinstance(each, Mapping) and each for each in found):
            mean[section] = _mean_tree(found, section, left_out)  # type: ignore[arg-type]
    return mean


def _mean_tree(
    trees: Sequence[Mapping[str, Any]], name: str, left_out: dict[str, int]
) -> dict[str, Any]:
    made: dict[str, Any] = {}
    keys = dict.fromkeys(key for tree in trees for key in tree)
    for key in keys:
        values = [tree.get(key) for tree in trees]
        if key in _NO_MEAN or key in ("images", "by_defect"):
            continue
        if any(isinstance(value, Mapping) for value in values):
            inner = [value for value in values if isinstance(value, Mapping)]
            made[key] = _mean_tree(inner, f"{name}.{key}", left_out)
            continue
        known = [float(value) for value in values if isinstance(value, int | float)]
        made[key] = sum(known) / len(known) if known else None
        if len(known) < len(values):
            left_out[f"{name}.{key}"] = len(values) - len(known)
    return made


def write_summary(
    path: Path, found: Mapping[str, Mapping[str, Any]], folders: Sequence[Path]
) -> None:
    """Write the categories' figures, their folders and the mean row."""
    rows = {
        name: {
            section: document[section]
            for section in (*_SECTIONS, "by_kind", "spro", "by_group")
            if section in document
        }
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
