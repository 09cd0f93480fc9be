"""What has been run: run folders found below a root, read as rows, compared, cleaned."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adbench.errors import UserError
from adbench.runs.files import read_record, read_yaml, remove
from adbench.runs.folder import locked

_FIGURES = {
    "image_auroc": ("image", "auroc"),
    "pixel_auroc": ("pixel", "auroc"),
    "aupro": ("pixel", "aupro_30"),
}
# keys that say where and under which name a run lies, not what it is
_PLACE = ("run.", "plain", "images.", "logger")


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder.

    Attributes:
        name: MODEL/DATASET/CATEGORY/NAME below the root.
        status: ``finished``, or what run.json says of an unfinished one.
        weights: name of the backbone's weights; ``RANDOM`` where they are.
        figures: image_auroc, pixel_auroc, aupro in 0..1; None where there is none.
        minutes: of the whole run.
        megabytes: on disk.
    """

    folder: Path
    name: str
    status: str
    protocol: str
    weights: str
    figures: Mapping[str, float | None]
    minutes: float | None
    megabytes: float

    @property
    def model(self) -> str:
        return self.name.split("/")[0]

    @property
    def dataset(self) -> str:
        return self.name.split("/")[1]

    @property
    def category(self) -> str:
        return self.name.split("/")[2]


def run_folders(root: Path) -> Iterator[Path]:
    """Yield every run folder below ``root`` in order; linked ones are left alone."""
    for record in sorted(root.glob("*/*/*/*/run.json")):
        if not record.parent.is_symlink():
            yield record.parent


def read_run(folder: Path, root: Path) -> Run:
    """Return what a run folder says of itself.

    Raises:
        UserError: one of its files is damaged.
    """
    record = read_record(folder / "run.json")
    path = folder / "metrics.json"
    metrics = read_record(path) if path.exists() else {}
    weights = _section(record, "weights")
    total = _number(_section(record, "seconds").get("total"))
    return Run(
        folder,
        folder.relative_to(root).as_posix(),
        str(record.get("status")),
        str(record.get("protocol")),
        "RANDOM" if weights.get("source") == "random" else str(weights.get("name", "-")),
        {name: _number(_section(metrics, part).get(key)) for name, (part, key) in _FIGURES.items()},
        None if total is None else total / 60,
        size_of(folder) / 1e6,
    )


def size_of(folder: Path) -> int:
    """Return the bytes of all files below ``folder``; what links point to is not counted."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            total += os.lstat(os.path.join(place, name)).st_size
    return total


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> both values, where two configurations differ in more than a place.

    A key that one of them lacks has None there.
    """
    one, other = dict(_leaves(first)), dict(_leaves(second))
    keys = [key for key in {**one, **other} if not key.startswith(_PLACE)]
    both = {key: (one.get(key), other.get(key)) for key in keys}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}


def configuration(folder: Path) -> dict[str, Any]:
    """Return config.yaml of a run.

    Raises:
        UserError: it is missing or damaged.
    """
    return read_yaml(folder / "config.yaml")


def remove_unfinished(run: Run) -> bool:
    """Remove a run folder that nobody finished; False where a process holds it."""
    try:
        with locked(run.folder):
            remove(run.folder)
    except UserError:
        return False
    return True


def _leaves(tree: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def _section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def sorted_runs(runs: Sequence[Run], by: str) -> list[Run]:
    """Return runs by a figure (best first), by minutes or megabytes (most first), or by name."""
    if by == "run":
        return sorted(runs, key=lambda run: run.name)

    def value(run: Run) -> float:
        found = run.figures.get(by) if by in _FIGURES else getattr(run, by)
        return float("-inf") if found is None else float(found)

    return sorted(runs, key=lambda run: (-value(run), run.name))
