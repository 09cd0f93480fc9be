"""What a page shows of one run: histogram, curves, training, gallery, environment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from adbench.errors import UserError
from adbench.metrics.curves import counted, precision_recall_curve, roc_curve, thinned
from adbench.reports import charts
from adbench.reports.facts import RunFacts, read_csv, section
from adbench.reports.pictures import gallery, panels, stage_pictures
from adbench.reports.settings import ReportKeys
from adbench.runs.files import read_record


@dataclass(frozen=True, slots=True)
class Detail:
    """What is shown of one run."""

    run: RunFacts
    histogram: Markup
    curves: list[Markup]
    training: list[Markup]
    gallery: dict[str, Any] | None
    panels: list[dict[str, Any]]
    stages: list[dict[str, Any]]
    data: dict[str, Any]
    config: list[tuple[str, str]]
    environment: list[tuple[str, str]]

    @property
    def bytes(self) -> int:
        """Size of its pictures in the page."""
        shown = self.gallery["pictures"] if self.gallery else []
        texts = [each[key] for each in shown for key in ("image", "map")]
        texts += [each["image"] for each in [*self.panels, *self.stages]]
        return sum(map(len, texts))


def details_of(runs: Sequence[RunFacts], keys: ReportKeys) -> tuple[list[Detail], int]:
    """Return the runs that are shown one by one, and how many are not.

    One of each method and category comes first; pictures stop where the page would grow too big.
    """
    first: dict[tuple[str, ...], RunFacts] = {}
    for run in runs:
        first.setdefault((run.label, *run.place), run)
    order = [*first.values(), *[run for run in runs if run not in first.values()]]
    left = int(keys.megabytes * 1e6) - 1_500_000
    found = []
    for run in order[: keys.details]:
        detail = _detail(run, keys)
        if detail.bytes > left:
            break
        left -= detail.bytes
        found.append(detail)
    return found, len(runs) - len(found)


def _detail(run: RunFacts, keys: ReportKeys) -> Detail:
    shown = gallery(run, keys.gallery)
    best = run.figure("image", "f1max_threshold")
    return Detail(
        run,
        charts.histogram(_groups(run), run.threshold, best),
        _curves(run),
        _training(run),
        shown,
        [] if shown else panels(run, min(keys.gallery, 8)),
        stage_pictures(run),
        {
            "id": run.id,
            "threshold": run.threshold,
            "scores": [[each.score, each.label] for each in run.predictions],
            "gallery": shown,
        },
        [(key, str(value)) for key, value in sorted(run.config.items())],
        _environment(run),
    )


def _groups(run: RunFacts) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = {"held-out normal": _held_out(run), "good": []}
    for each in run.predictions:
        name = "good" if each.label == 0 else "unlabelled" if each.label < 0 else each.defect
        groups.setdefault(name, []).append(each.score)
    return groups


def _held_out(run: RunFacts) -> list[float]:
    try:
        stored = read_record(run.folder / "threshold.json").get("held_out_scores")
    except UserError:
        return []
    values = stored if isinstance(stored, list) else []
    return [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]


def _curves(run: RunFacts) -> list[Markup]:
    """Return ROC and precision-recall of images and pixels, and PRO."""
    roc, recall = {}, {}
    scores = np.array([each.score for each in run.predictions], dtype=np.float32)
    labels = np.array([each.label for each in run.predictions])
    if (labels == 1).any() and (labels == 0).any():
        counts = counted(scores[labels == 1], None, [np.sort(scores[labels == 0])], 0.0)
        roc["images"] = thinned(*roc_curve(counts))
        recall["images"] = thinned(*precision_recall_curve(counts))
    stored = _stored_curves(run)
    if "roc" in stored:
        roc["pixels"] = stored["roc"]
    if "pr" in stored:
        recall["pixels"] = stored["pr"]
    found = []
    if roc:
        axes = (charts.Axis("false positive rate", 0, 1), charts.Axis("true positive rate", 0, 1))
        found.append(charts.line_chart("ROC", axes, roc))
    if recall:
        axes = (charts.Axis("recall", 0, 1), charts.Axis("precision", 0, 1))
        found.append(charts.line_chart("precision and recall", axes, recall))
    if "pro" in stored:
        axes = (charts.Axis("false positive rate, to 0.3", 0, 0.3), charts.Axis("overlap", 0, 1))
        xs, ys = stored["pro"]
        inside = [(x, y) for x, y in zip(xs, ys, strict=False) if x <= 0.3]
        curve = ([x for x, _ in inside], [y for _, y in inside])
        found.append(charts.line_chart("per-region overlap (PRO)", axes, {"regions": curve}))
    return found


def _stored_curves(run: RunFacts) -> dict[str, tuple[list[float], list[float]]]:
    """Return the pixels' curves of curves.json; runs of old have none."""
    try:
        stored = section(read_record(run.folder / "curves.json"), "pixel")
    except UserError:
        return {}
    found = {}
    for name in ("roc", "pr", "pro"):
        curve = section(stored, name)
        xs, ys = (_numbers(curve.get(key)) for key in ("x", "y"))
        if xs and len(xs) == len(ys):
            found[name] = (xs, ys)
    return found


def _numbers(values: Any) -> list[float]:
    if not isinstance(values, list) or len(values) > 10_000:
        return []
    good = [isinstance(v, int | float) and math.isfinite(v) for v in values]
    return [float(v) for v in values] if all(good) else []


_APART = ("epoch", "batches", "seconds", "img_per_s")


def _training(run: RunFacts) -> list[Markup]:
    """Return losses over epochs, and what was measured during training."""
    try:
        rows = read_csv(run.folder / "history.csv")
    except UserError:
        return []
    columns: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows[:: max(len(rows) // 400, 1)]:
        for name, value in row.items():
            number = _number(value)
            epoch = _number(row.get("epoch"))
            if name in _APART or str(name).startswith("lr") or number is None or epoch is None:
                continue
            columns.setdefault(str(name), ([], []))[0].append(epoch)
            columns[str(name)][1].append(number)
    looks = {k: v for k, v in columns.items() if "auroc" in k or k.startswith("val_")}
    losses = {k: v for k, v in columns.items() if k not in looks}
    found = []
    for title, lines in (("training", losses), ("looks during training", looks)):
        chosen = dict(list(lines.items())[: charts.HUES])
        if chosen and len(rows) > 1:
            found.append(charts.line_chart(title, _around(chosen), chosen))
    return found


def _around(
    lines: Mapping[str, tuple[list[float], list[float]]],
) -> tuple[charts.Axis, charts.Axis]:
    xs = [x for values, _ in lines.values() for x in values]
    ys = [y for _, values in lines.values() for y in values]
    low, high = min(0.0, min(ys)), max(ys)
    return (
        charts.Axis("epoch", min(xs), max(max(xs), min(xs) + 1)),
        charts.Axis("", low, high if high > low else low + 1),
    )


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _environment(run: RunFacts) -> list[tuple[str, str]]:
    told = section(run.record, "environment")
    found = [
        (k, str(told[k])) for k in ("device", "cores", "threads", "platform", "git") if k in told
    ]
    found += [(str(k), str(v)) for k, v in section(told, "versions").items()]
    weights = section(run.record, "weights")
    found += [
        (f"weights {k}", str(weights[k])) for k in ("name", "source", "sha256") if k in weights
    ]
    seconds = section(run.record, "seconds")
    found += [(f"seconds {k}", str(v)) for k, v in seconds.items()]
    memory = run.record.get("peak_memory")
    if isinstance(memory, int):
        found.append(("peak memory", f"{memory / 1e6:.0f} MB"))
    return [*found, ("command", " ".join(run.overrides))]
