"""``adbench train``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adbench.backbones.files import regular_file
from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import figure, metric_row, print_table, say
from adbench.cli.help import group_help
from adbench.config.schema import settings
from adbench.data.opening import chosen_categories
from adbench.errors import UserError
from adbench.runs.summary import METRIC_COLUMNS, mean_metrics, read_metrics, write_summary
from adbench.training.hardware import check_hardware


def usage() -> str:
    """Return the text of ``adbench train --help``."""
    return group_help(
        "adbench train key=value ... [--multirun] [--config-dir FOLDER]",
        "Trains, tests and writes a run folder; the same command resumes an interrupted run.",
        (
            "dataset.root=FOLDER        where the data lies (else ADBENCH_DATA/NAME, ./data/NAME)",
            "dataset.category=NAME      one, [a,b], or all: one model each, a mean row",
            "dataset.image_size=256     working size, one side or [height,width]",
            "dataset.shots=8            train on so many normal images",
            "train.steps=N epochs= minutes=   when training ends",
            "backbone.weights=FILE      weights from a file; random: none (marked)",
            "backbone.exposure=0.4      every picture to one mean grey, where light drifts",
            "seed=0 protocol=honest     honest: nothing chosen on the test set",
            "run.root=outputs run.name= where the run folder lies",
            "force=true                 repeat a finished run",
            "plain=true                 no colours, no live display",
        ),
    )


def run(words: Sequence[str]) -> int:
    """Train; the last line on stdout is the run folder, or the folder above several."""
    arguments = parsed_arguments(words)
    if arguments.multirun:
        from adbench.cli.sweep import run as sweep

        return sweep([word for word in words if word not in ("-m", "--multirun")])
    from adbench.config.compose import compose_config

    config = compose_config("train", arguments.overrides, arguments.config_dir)
    keys = settings(config)
    if keys.threshold.calibrate is not None:
        raise UserError("threshold.calibrate= is for adbench test: training takes held-out normals")
    check_hardware(keys.hardware)  # all of this is told before torch is imported
    if keys.backbone.name is not None and keys.backbone.weights not in (None, "random"):
        regular_file(keys.backbone.weights, "backbone.weights")
    chosen_categories(keys.dataset)
    from adbench.training.session import train

    wait = os.environ.get("ADBENCH_WAIT") == "1"  # a sweep's cell: see sweeps/engine.py
    folders = train(config, arguments.overrides, say, wait=wait)
    if not folders:  # one of several processes, and not the first: that one tells
        return 0
    if not all((folder / "metrics.json").is_file() for folder in folders):
        print(folders[-1])  # a run that ended with a stage
        return 0
    found = {folder.parent.name: read_metrics(folder) for folder in folders}
    show_metrics(found, plain=bool(config["plain"]))
    show_threshold(found)
    say(f"a page of it: {_report_command(folders)}")
    if len(folders) == 1:
        print(folders[0])
        return 0
    above = folders[0].parent.parent
    write_summary(above / f"summary-{folders[0].name}.json", found, folders)
    print(above)
    return 0


def _report_command(folders: Sequence[Path]) -> str:
    """Return what to type for a report of these runs."""
    import shlex

    place = folders[0] if len(folders) == 1 else folders[0].parent.parent
    return f"adbench report {shlex.quote(f'runs={place}')}"


def show_metrics(found: dict[str, dict[str, Any]], *, plain: bool) -> None:
    """Print one row per category and a mean row; kinds of anomaly and lights apart.

    One model over several categories has a row for each, their mean, and the pooled figures.
    """
    shown: list[tuple[str, Mapping[str, Any]]] = []
    for name, metrics in found.items():
        parts = metrics.get("by_category", {})
        shown += parts.items()
        shown.append((f"mean of {len(parts)}" if parts else name, metrics))
        shown += [("pooled", metrics["pooled"])] if parts else []
    if len(found) > 1:
        shown.append(("mean", mean_metrics(list(found.values()))))
    first = next(iter(found.values()))
    flavours = [key for key in first["pixel"] if key.startswith("pro_")]
    rows = [
        [*metric_row(name, figures), *[figure(figures["pixel"].get(key)) for key in flavours]]
        for name, figures in shown
    ]
    header = ["category", *[name for name, _, _ in METRIC_COLUMNS], *flavours]
    told = "; ".join([f"protocol={first['protocol']}", *first.get("marks", [])])
    print_table(told, header, rows, plain=plain)
    _show_kinds(found, plain=plain)
    _show_groups(found, plain=plain)


def _by_category(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the documents, those of one model over several categories taken apart."""
    apart: dict[str, dict[str, Any]] = {}
    for name, metrics in found.items():
        apart |= metrics.get("by_category") or {name: metrics}
    return apart


def _show_kinds(found: dict[str, dict[str, Any]], *, plain: bool) -> None:
    """Print logical and structural anomalies apart, where a data set tells them apart."""
    apart = _by_category(found)
    if len(apart) > 1:
        apart = {**apart, "mean": mean_metrics(list(apart.values()))}
    overlap = any("spro" in metrics for metrics in apart.values())
    rows = []
    for name, metrics in apart.items():
        for kind, figures in metrics.get("by_kind", {}).items():
            spro = metrics.get("spro", {}).get(kind, {})
            more = [figure(spro.get(key)) for key in ("spro_05", "spro_30")] if overlap else []
            rows.append([*metric_row(f"{name} {kind}", figures), *more])
    if rows:
        columns = [name for name, _, _ in METRIC_COLUMNS]
        more = ["AUsPRO 0.05", "AUsPRO 0.3"] if overlap else []
        header = ["category and kind", *columns, *more]
        print_table("by kind of anomaly", header, rows, plain=plain)


def _show_groups(found: dict[str, dict[str, Any]], *, plain: bool) -> None:
    """Print figures under each light, or in each subset, where a data set has several."""
    rows = [
        metric_row(f"{name} {group}", {"image": figures, "pixel": figures.get("pixel", {})})
        for name, metrics in _by_category(found).items()
        for group, figures in metrics.get("by_group", {}).items()
    ]
    if rows:
        header = ["category and group", *[name for name, _, _ in METRIC_COLUMNS]]
        print_table("by light or subset", header, rows, plain=plain)


def show_threshold(found: dict[str, dict[str, Any]]) -> None:
    """Say by what each category decides, or why it does not."""
    for name, metrics in found.items():
        threshold = metrics["threshold"]
        if threshold["value"] is None:
            say(f"{name}: no threshold, no decisions: {threshold['source']}")
            continue
        say(
            f"{name}: threshold {threshold['value']:.6g} from {threshold['source']}, expected "
            f"false alarms {threshold['expected_false_alarm_rate']:.1%}"
        )
