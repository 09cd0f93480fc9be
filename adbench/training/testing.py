"""Tests a detector and writes what a run folder says about it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adbench.config.schema import Settings, settings
from adbench.data.datamodule import DataModule
from adbench.data.defects import RECORD, SEEN, read_seen, without_these
from adbench.data.fingerprint import differences, fingerprint, trained_on
from adbench.data.layouts import get_layout
from adbench.data.layouts.base import Layout
from adbench.data.layouts.folder import FolderLayout
from adbench.data.opening import chosen_categories, open_layout, read_samples
from adbench.data.sample import ANOMALOUS, NORMAL, UNKNOWN, Sample
from adbench.errors import UserError
from adbench.methods.base import Detector, load_detector
from adbench.metrics import VERSION
from adbench.runs.files import confined, safe_name, write_json
from adbench.runs.folder import RunFolder, locked
from adbench.runs.pictures import write_png
from adbench.runs.summary import read_metrics
from adbench.training.data import build_datamodule, check_data
from adbench.training.evaluate import (
    Evaluation,
    HeldOut,
    Scored,
    evaluate,
    held_out,
    prediction_rows,
    write_predictions,
)
from adbench.training.gallery import Gallery
from adbench.training.hardware import check_hardware
from adbench.training.naming import type_figures
from adbench.training.pictures import HeatMaps
from adbench.training.refit import FIRST
from adbench.training.score_plot import score_histograms
from adbench.training.threshold import StoredThreshold, read_threshold, threshold_entry

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
    detector: Detector,
    datamodule: DataModule,
    keys: Settings,
    stored: StoredThreshold,
    folder: Path,
) -> dict[str, Any]:
    """Test a detector, write its tables and pictures into ``folder``; return metrics.json.

    Args:
        stored: what the run decides by; never taken from these pictures.

    Raises:
        UserError: the detector changed while it was tested.
    """
    device = device_of(keys.hardware.accelerator)
    threshold = stored.threshold
    pictures = HeatMaps(detector, datamodule, device, keys.images.save)
    gallery = Gallery(datamodule)

    def shown(scored: Scored) -> None:
        pictures(scored)
        gallery(scored)

    before = _digest(detector)
    named = type_figures(detector, datamodule, device)
    found: Evaluation = evaluate(
        detector,
        datamodule,
        keys.metrics,
        device,
        pixel_threshold=stored.pixel_threshold,
        each=shown,
    )
    if _digest(detector) != before:
        raise UserError("the detector changed while it was tested: its figures mean nothing")
    write_predictions(folder / "predictions.csv", prediction_rows(found, threshold.value))
    write_json(folder / "curves.json", {"schema": 1, "pixel": found.curves})
    pictures.write(confined(folder, "images"), stored)
    if keys.images.save != 0:
        gallery.write(confined(folder, "images", "gallery"), stored)
    pictures.write_sheet(folder / "sheet.png")
    _write_histograms(folder, found, stored)
    return {
        "schema": SCHEMA,
        "metrics_version": VERSION,
        "protocol": keys.protocol,
        "marks": marks(keys),
        "epoch": None,
        "category": None,
        **found.metrics,
        **({"types": named} if named is not None else {}),
        "threshold": threshold_entry(threshold, found.scores, found.labels),
        "seconds": {name: round(value, 3) for name, value in found.seconds.items()},
    }


def marks(keys: Settings) -> list[str]:
    """Return what a reader of the figures must know beside the protocol."""
    found = []
    if keys.metrics.resolution == "working":
        found.append("pixels judged at the working size")
    if keys.metrics.pro_flavour is not None:
        found.append(f"pro_{keys.metrics.pro_flavour} is that repository's PRO, not the definition")
    return found


def _digest(detector: Detector) -> str:
    """Return a hash of a detector's tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(detector.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write_histograms(folder: Path, found: Evaluation, stored: StoredThreshold) -> None:
    groups = {
        "held-out normal": stored.scores,
        "test normal": found.scores[found.labels == NORMAL],
        "test anomalous": found.scores[found.labels == ANOMALOUS],
        "test, unlabelled": found.scores[found.labels == UNKNOWN],
    }
    if any(len(scores) for scores in groups.values()):
        write_png(folder / "scores.png", score_histograms(groups, stored.threshold.value))


def draw_more(
    folder: RunFolder, keys: Settings, samples: Sequence[Sample], say: Callable[[str], None]
) -> None:
    """Draw the heat maps that a finished run was not asked for before, with its detector."""
    drawn = len(list(confined(folder.path, "images").glob("*.png")))
    tests = [sample for sample in samples if sample.split == "test"]
    wanted = len(tests) if keys.images.save == "all" else min(int(keys.images.save), len(tests))
    if wanted <= drawn:
        return
    say(f"{wanted} heat maps are asked for, {drawn} are there: drawing with the finished detector")
    torch.set_num_threads(keys.hardware.threads)
    device = device_of(keys.hardware.accelerator)
    datamodule = build_datamodule(keys, samples, needs_training=False)
    detector = load_detector(folder.path, device)
    pictures = HeatMaps(detector, datamodule, device, keys.images.save)
    evaluate(detector, datamodule, keys.metrics, device, each=pictures)
    pictures.write(folder / "images", read_threshold(folder.path))


def repeated_test(
    folder: RunFolder,
    config: Mapping[str, Any],
    say: Callable[[str], None],
    *,
    elsewhere: bool,
    threshold: Mapping[str, Any] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Test a finished run again; return where the results lie and metrics.json.

    On the run's own data the figures are compared with the stored ones; on other pictures they
    are written under ``tests/DATASET-CATEGORY`` in the run folder. Pictures without labels are
    scored and decided.

    Args:
        elsewhere: other pictures, or other settings, than the run's own.
        threshold: ``false_alarm_rate`` or ``calibrate`` where another threshold than the run's is
            asked for.

    Raises:
        UserError: data, detector or threshold cannot be read, or a picture to calibrate on was
            trained on.
    """
    keys = settings(config)
    check_hardware(keys.hardware)
    torch.set_num_threads(keys.hardware.threads)
    detector = load_detector(folder.path, device_of(keys.hardware.accelerator))
    stored = read_threshold(folder.path)
    samples = pictures_to_test(keys, say) if elsewhere else _own_samples(keys)
    check_data(samples, say, bits=keys.dataset.bits)
    samples = unseen(folder, samples, elsewhere=elsewhere, say=say)
    if threshold:
        stored = _asked_threshold(folder, detector, keys, stored, threshold)
    categories = sorted({sample.category for sample in samples})
    datamodule = build_datamodule(keys, samples, needs_training=False)
    subset = keys.dataset.options.get("subset")
    parts = [keys.dataset.name, "+".join(categories), *_named(subset)]
    name = safe_name("-".join(parts)[:200], "tests/")
    target = confined(folder.path, "tests", name if elsewhere else "again")
    with locked(target):
        _say_known(folder, samples, elsewhere, say)
        document = tested(detector, datamodule, keys, stored, target)
        document["category"] = "+".join(categories)
        if not elsewhere:
            document["epoch"] = read_metrics(folder.path).get("epoch")
        write_json(target / "metrics.json", document)
    return target, document


def unseen(
    folder: RunFolder, samples: Sequence[Sample], *, elsewhere: bool, say: Callable[[str], None]
) -> list[Sample]:
    """Return the samples, real defects that the run has seen in a split that is not scored.

    Raises:
        UserError: nothing else is left to score.
    """
    record = confined(folder.path, RECORD)
    if not record.is_file():
        return list(samples)
    found = without_these(samples, read_seen(record))
    known = [sample for sample in found if sample.split == SEEN]
    if len(known) == len(found):
        raise UserError(f"the run has seen all {len(known)} pictures: none is left to score")
    if known and elsewhere:
        say(f"note: the run has seen {len(known)} of these pictures: they are not scored")
    return found


def pictures_to_test(keys: Settings, say: Callable[[str], None]) -> list[Sample]:
    """Return the pictures of another place than the run's own: its test split where it has one.

    A folder that has not the layout that the run was trained on is read as pictures without
    labels.

    Raises:
        UserError: the folder has the layout, but not the category; or it holds no picture.
    """
    layout, root = open_layout(keys.dataset)
    if not _laid_out(layout, root):
        found = folder_pictures(root, keys.dataset.name)
        say(f"{root} is not laid out as the run's data was: {len(found)} pictures, without labels")
        return found
    found = read_samples(keys.dataset, chosen_categories(keys.dataset))
    return [sample for sample in found if sample.split == "test"] or found


def _laid_out(layout: Layout, root: Path) -> bool:
    """Whether ``root`` has the layout at all; what is wrong within it is told when it is read."""
    if isinstance(layout, FolderLayout):
        return any((root / name).is_dir() for name in (*layout.normal, *layout.abnormal))
    try:
        return bool(layout.categories(root))
    except UserError:
        return False


def folder_pictures(root: Path, category: str) -> list[Sample]:
    """Return every picture below ``root`` as one to test, without a label.

    Raises:
        UserError: there is none.
    """
    layout = get_layout("pictures", name=category)
    return [s for each in layout.categories(root) for s in layout.read(root, each)]


def _named(subset: Any) -> list[str]:
    """Return what a folder of results is called by besides data set and category."""
    if subset in (None, "all"):
        return []
    return [subset if isinstance(subset, str) else "+".join(map(str, subset))]


def _own_samples(keys: Settings) -> list[Sample]:
    """Return the run's own pictures.

    Raises:
        UserError: they are no longer where the run saw them.
    """
    try:
        return read_samples(keys.dataset, chosen_categories(keys.dataset))
    except UserError as error:
        raise UserError(f"{error}; if the data has moved: dataset.root=FOLDER") from error


def _say_known(
    folder: RunFolder, samples: Sequence[Sample], elsewhere: bool, say: Callable[[str], None]
) -> None:
    """Say where pictures differ from the run's own, or are some that it trained on."""
    data = _recorded_data(folder)
    if not elsewhere:
        for line in differences(data, fingerprint(samples)):
            say(f"note: the data is not what the run saw: {line}")
        return
    known = trained_on(data, [sample for sample in samples if sample.split == "test"])
    if known:
        say(f"note: the run trained on {len(known)} of these pictures, e.g. {known[0].relative}")


def _recorded_data(folder: RunFolder) -> dict[str, Any]:
    identity = folder.record.get("identity")
    data = identity.get("data") if isinstance(identity, dict) else None
    return data if isinstance(data, dict) else {}


def _asked_threshold(
    folder: RunFolder,
    detector: Detector,
    keys: Settings,
    stored: StoredThreshold,
    asked: Mapping[str, Any],
) -> StoredThreshold:
    """Return a threshold of another rate, or from a folder of normal pictures."""
    rate = asked.get("false_alarm_rate", keys.threshold.false_alarm_rate)
    if asked.get("calibrate") is None:
        return stored.at(rate)
    normals = folder_pictures(Path(asked["calibrate"]).expanduser(), "calibrate")
    known = trained_on(_recorded_data(folder), normals)
    if known:
        raise UserError(
            f"threshold.calibrate={asked['calibrate']}: the run trained on {len(known)} of these "
            f"pictures, e.g. {known[0].relative}; a threshold needs others"
        )
    datamodule = build_datamodule(keys, normals, needs_training=False)
    device = device_of(keys.hardware.accelerator)
    normal = held_out(detector, datamodule, keys.metrics, device, split="test")
    source = f"{len(normal.scores)} pictures of {asked['calibrate']}"
    made = StoredThreshold(stored.threshold, np.asarray(normal.scores), normal.pixel_threshold)
    return made.at(rate, source)
