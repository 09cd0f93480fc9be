"""Tests a detector and writes what a run folder says about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from adbench.config.schema import Settings, settings
from adbench.data.datamodule import DataModule
from adbench.data.sample import ANOMALOUS, NORMAL, UNKNOWN
from adbench.methods.base import Detector, load_detector
from adbench.runs.files import read_json, write_json
from adbench.runs.folder import RunFolder
from adbench.training.data import build_datamodule, check_data, chosen_categories, read_samples
from adbench.training.evaluate import (
    Evaluation,
    HeldOut,
    evaluate,
    held_out,
    prediction_rows,
    write_predictions,
)
from adbench.training.heatmaps import write_png
from adbench.training.pictures import HeatMaps
from adbench.training.refit import FIRST
from adbench.training.score_plot import score_histograms
from adbench.training.threshold import threshold_entry, threshold_of

SCHEMA = 1


def device_of(accelerator: str) -> torch.device:
    """Return the device that an accelerator of the hardware group means."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if accelerator == "mps":
        return torch.device("mps")
    return torch.device("cpu")


def held_out_of(
    folder: Path, detector: Detector, datamodule: DataModule, keys: Settings
) -> HeldOut:
    """Return what the held-out normals of ``datamodule`` say to a detector they are foreign to.

    That is ``detector``, the one of the run ``folder``; after ``train.refit`` the one of its first
    training.
    """
    device = device_of(keys.hardware.accelerator)
    if keys.train.refit:
        detector = load_detector(folder / FIRST, device)
    return held_out(detector, datamodule, keys.metrics, device)


def tested(
    detector: Detector, datamodule: DataModule, keys: Settings, normal: HeldOut, folder: Path
) -> dict[str, Any]:
    """Test a detector, write its tables and pictures into ``folder``; return metrics.json.

    Args:
        normal: of the held-out normals; thresholds come from them.
    """
    device = device_of(keys.hardware.accelerator)
    threshold = threshold_of(normal.scores, keys.threshold.false_alarm_rate)
    pictures = HeatMaps(detector, datamodule, device, keys.images.save)
    found: Evaluation = evaluate(
        detector,
        datamodule,
        keys.metrics,
        device,
        pixel_threshold=normal.pixel_threshold,
        each=pictures,
    )
    rows = prediction_rows(found, threshold.value)
    write_predictions(folder / "predictions.csv", rows)
    pictures.write(folder / "images", threshold.value)
    groups = {
        "held-out normal": normal.scores,
        "test normal": found.scores[found.labels == NORMAL],
        "test anomalous": found.scores[found.labels == ANOMALOUS],
        "test, unlabelled": found.scores[found.labels == UNKNOWN],
    }
    if any(len(scores) for scores in groups.values()):
        write_png(folder / "scores.png", score_histograms(groups, threshold.value))
    return {
        "schema": SCHEMA,
        "protocol": keys.protocol,
        "epoch": None,
        "category": None,
        **found.metrics,
        "threshold": threshold_entry(threshold, found.scores, found.labels),
        "seconds": {name: round(value, 3) for name, value in found.seconds.items()},
    }


def test(
    folder: RunFolder, config: Mapping[str, Any], say: Callable[[str], None], *, elsewhere: bool
) -> tuple[Path, dict[str, Any]]:
    """Test a finished run again; return where the results lie and metrics.json.

    On the run's own data the figures are compared with the stored ones; on another data set they
    are written under ``tests/DATASET-CATEGORY`` in the run folder.
    """
    keys = settings(config)
    torch.set_num_threads(keys.hardware.threads)
    detector = load_detector(folder.path, device_of(keys.hardware.accelerator))
    categories = chosen_categories(keys.dataset)
    samples = read_samples(keys.dataset, categories)
    check_data(samples, say)
    datamodule = build_datamodule(keys, samples)
    name = f"{keys.dataset.name}-{'+'.join(categories)}" if elsewhere else "again"
    target = folder.path / "tests" / name
    target.mkdir(parents=True, exist_ok=True)
    normal = held_out_of(folder.path, detector, datamodule, keys)
    document = tested(detector, datamodule, keys, normal, target)
    document["category"] = "+".join(categories)
    if not elsewhere:
        stored = read_json(folder / "metrics.json")
        document["epoch"] = stored["epoch"]
    write_json(target / "metrics.json", document)
    return target, document
