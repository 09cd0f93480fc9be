"""A run as plain data for reports. Whatever lies in its folder is hostile until it is read."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adbench.errors import UserError
from adbench.reports.intervals import resampled_auroc
from adbench.reports.measured import at
from adbench.runs.files import read_record

_MOST_ROWS = 200_000  # predictions or epochs that are read
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Prediction:
    """One test image: path below the data set, label (1 anomalous), kind of defect, score."""

    path: str
    label: int
    defect: str
    score: float


@dataclass(slots=True)
class RunFacts:
    """One run.

    Attributes:
        id: names it in the page, ``r0``, ``r1``, ...
        label: method and what sets it apart from the others of the report.
        config: dotted key -> value, resolved.
        samples: bootstrap samples of the image AUROC.
        warnings: what a reader must know before the figures.
    """

    id: str
    folder: Path
    record: dict[str, Any]
    metrics: dict[str, Any]
    predictions: list[Prediction]
    config: dict[str, Any]
    overrides: list[str]
    samples: NDArray[np.float64]
    label: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def place(self) -> tuple[str, str]:
        """(data set, category)."""
        return self.dataset, self.category

    @property
    def model(self) -> str:
        return str(self.record.get("model") or self.config.get("model.name") or "?")

    @property
    def dataset(self) -> str:
        return str(self.config.get("dataset.name") or "?")

    @property
    def category(self) -> str:
        return str(self.metrics.get("category") or self.config.get("dataset.category") or "?")

    @property
    def seed(self) -> str:
        return str(self.record.get("seed", "?"))

    @property
    def protocol(self) -> str:
        return str(self.metrics.get("protocol", "?"))

    @property
    def backbone(self) -> str:
        name = str(self.config.get("backbone.name"))
        source = section(self.record, "weights").get("source")
        return f"{name}, RANDOM weights" if source == "random" else name

    @property
    def marks(self) -> list[str]:
        """What must stand beside the figures wherever they are shown."""
        found = ["paper protocol: chosen on test"] if self.protocol == "paper" else []
        stored = self.metrics.get("marks")
        told = list(map(str, stored)) if isinstance(stored, list) else []
        found += [mark for mark in told if not mark.startswith("pro_")]  # not shown here
        if section(self.record, "weights").get("source") == "random":
            found.append("random weights")
        # not every "draem" saw DTD: what the anomalies were made of stands beside the figures
        made_of = section(self.record, "synthesis")
        found += [f"{name} {source}" for name, source in made_of.items()]
        opened = section(self.record, "sealed").get("opened")
        return [*found, "TEST FILES OPENED IN TRAINING"] if opened else found

    def figure(self, *keys: str) -> float | None:
        """Return a number of metrics.json; None where it has none."""
        return at(self.metrics, *keys)

    @property
    def minutes(self) -> float | None:
        total = at(self.record, "seconds", "total")
        return None if total is None else total / 60

    @property
    def images_per_second(self) -> float | None:
        seconds = self.figure("seconds", "inference")
        return len(self.predictions) / seconds if seconds else None

    @property
    def threshold(self) -> float | None:
        return self.figure("threshold", "value")

    @property
    def defects(self) -> dict[str, float]:
        """Kind of defect -> image AUROC against all good pictures."""
        found = {
            str(name): at(entry, "image", "auroc") if isinstance(entry, Mapping) else None
            for name, entry in section(self.metrics, "by_defect").items()
        }
        return {name: value for name, value in found.items() if value is not None}


def section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of a JSON document; empty where it is none."""
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def read_facts(folder: Path, number: int, bootstrap: int) -> RunFacts:
    """Return what a finished run says.

    Raises:
        UserError: it is not finished, or a file cannot be read.
    """
    record = read_record(folder / "run.json")
    if record.get("status") != "finished":
        raise UserError(f"{folder}: {record.get('status', 'not begun')}, not reported")
    metrics = read_record(folder / "metrics.json")
    predictions = read_predictions(folder / "predictions.csv")
    scores = np.array([each.score for each in predictions], dtype=np.float64)
    labels = np.array([each.label for each in predictions], dtype=np.int64)
    facts = RunFacts(
        f"r{number}",
        folder,
        record,
        metrics,
        predictions,
        dict(section(section(record, "identity"), "config")),
        _words(section(record, "environment").get("command")),
        resampled_auroc(scores, labels, bootstrap),
    )
    facts.warnings = _warnings(facts)
    return facts


def _words(found: Any) -> list[str]:
    return [str(word) for word in found] if isinstance(found, list) else []


def _warnings(facts: RunFacts) -> list[str]:
    found = [mark for mark in facts.marks if "TEST" in mark or "random" in mark]
    if facts.threshold is None:
        told = section(facts.metrics, "threshold").get("source")
        found.append(f"no threshold: {told}")
    why = section(facts.metrics, "why")
    found += [f"{name}: {reason}" for name, reason in why.items()]
    pixel = section(section(facts.metrics, "pixel"), "why")
    return [*found, *[f"pixel {name}: {reason}" for name, reason in pixel.items()]]


def read_predictions(path: Path) -> list[Prediction]:
    """Return the rows of predictions.csv whose score is a finite number.

    Raises:
        UserError: the file is missing, too large or no table of predictions.
    """
    found = []
    for row in read_csv(path):
        try:
            score, label = float(row["score"]), int(row["label"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: a row is no prediction ({error})") from error
        if math.isfinite(score):
            found.append(Prediction(str(row.get("path")), label, str(row.get("defect")), score))
    return found


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header.

    Raises:
        UserError: the file is missing or too large, or no CSV.
    """
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        raise UserError(f"{path} is missing, no ordinary file, or too large")
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as lines:
            rows = csv.DictReader(lines)
            return [row for _, row in zip(range(_MOST_ROWS), rows, strict=False)]
    except csv.Error as error:
        raise UserError(f"{path}: {error}") from error


# What says where and how, not what: it sets no method apart.
_SAID_APART = (
    *("dataset", "seed", "run.", "plain", "hardware", "images.", "logger", "metrics."),
    *("train.oracle_every", "force"),
)


def label_runs(runs: Sequence[RunFacts]) -> None:
    """Give every run the name of its method and the words that set it apart."""
    told = {run.id: _telling(run) for run in runs}
    short = {run.id: [_shorter(word) for word in told[run.id]] for run in runs}
    if len({tuple(words) for words in short.values()}) == len({tuple(w) for w in told.values()}):
        told = short  # else they would no longer be told apart
    for run in runs:
        others = [told[each.id] for each in runs if each.model == run.model]
        shared = set.intersection(*map(set, others)) if others else set()
        own = [word for word in told[run.id] if word not in shared]
        run.label = " ".join([run.model, *own])


def _telling(run: RunFacts) -> list[str]:
    words = run.overrides[1:] if run.overrides[:1] == ["train"] else run.overrides
    kept = [w for w in words if "=" in w and not w.startswith(_SAID_APART)]
    return [w.removeprefix("model.").removeprefix("experiment=") for w in kept]


def _shorter(word: str) -> str:
    """Return KEY=VALUE with a long number in four digits: a search draws sixteen of them."""
    key, sign, value = word.partition("=")
    try:
        return f"{key}{sign}{float(value):.4g}" if len(value) > 7 and "." in value else word
    except ValueError:
        return word
