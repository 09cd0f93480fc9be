"""The checks of a method. Each takes a subject and raises AssertionError with what is wrong."""

from __future__ import annotations

import csv
import importlib.util
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from torch import Tensor

from adbench.config.schema import settings
from adbench.config.targets import PLUGINS, trusted_packages
from adbench.conformance.subject import CATEGORY, SIZE, DoesNotApply, Subject
from adbench.data.cache import resized_image
from adbench.data.opening import read_samples
from adbench.errors import UserError
from adbench.methods.base import AnomalyModule, Requirements, load_detector
from adbench.runs.files import read_json
from adbench.training.checkpoints import Checkpoint
from adbench.training.data import check_requirements

Check = Callable[[Subject], None]


def _holds(condition: Any, otherwise: str) -> None:
    if not condition:
        raise AssertionError(otherwise)


def _near(one: Tensor, other: Tensor, what: str) -> None:
    apart = float((one - other).abs().max())
    allowed = torch.allclose(one, other, atol=1e-5, rtol=1e-5)
    _holds(allowed, f"{what}: {apart:.2g} apart, 1e-5 is allowed")


def builds_and_declares(subject: Subject) -> None:
    """It is built of backbone, synthesis, image_size, seed and its keys, and says what it needs"""
    module = subject.module
    _holds(isinstance(module, AnomalyModule), f"{type(module).__name__} is no AnomalyModule")
    _holds(hasattr(module, "detector"), "its constructor sets no self.detector")
    needs = module.requirements(7)
    _holds(isinstance(needs, Requirements), f"requirements() returned {type(needs).__name__}")


def trains_on_normal_images_alone(subject: Subject) -> None:
    """Losses are finite, and training saw no test image"""
    rows = _table(subject.folder / "history.csv")
    _holds(len(rows) == 2, f"history.csv has {len(rows)} rows for 2 epochs")
    for row in rows:
        for name, value in row.items():
            _holds(not value or math.isfinite(float(value)), f"{name} is {value}")
    _holds(subject.seen, "neither prepare() nor finish() was called")
    _holds(not any(subject.seen), "a hook of training was shown test images")


@torch.no_grad()
def maps_have_the_size_of_the_image(subject: Subject) -> None:
    """Scores [B] and maps [B, 1, H, W] are float32 and finite, at the size of the image"""
    detector = load_detector(subject.folder)
    for size in (SIZE, (33, 65)):
        image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        score, found = detector(image)
        _shaped(found, (2, 1, *size), "anomaly_map")
        _shaped(score, (2,), "score")
        for name, tensor in (("score", score), ("anomaly_map", found)):
            _holds(tensor.dtype == torch.float32, f"{name} is {tensor.dtype}, not float32")
            _holds(torch.isfinite(tensor).all(), f"{name} is not finite")
        for name, partial in detector.named_maps(image).items():
            _shaped(partial, (2, 1, *size), f"named_maps()[{name!r}]")


def _shaped(tensor: Tensor, shape: tuple[int, ...], name: str) -> None:
    _holds(tensor.shape == shape, f"{name} is {tuple(tensor.shape)}, not {shape}")


@torch.no_grad()
def scores_do_not_depend_on_the_batch(subject: Subject) -> None:
    """An image's score and map do not depend on the rest of the batch; forward changes nothing"""
    detector = load_detector(subject.folder)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    batch = subject.test_images()
    together = detector(batch)
    for row, image in enumerate(batch):
        alone = detector(image[None])
        _near(alone.score[0], together.score[row], "score of an image alone and in a batch")
        _near(alone.anomaly_map[0], together.anomaly_map[row], "map alone and in a batch")
    turned = detector(batch.flip(0))
    _near(turned.score.flip(0), together.score, "scores of the batch in reverse order")
    for name, value in detector.state_dict().items():
        _holds(torch.equal(value, before[name]), f"forward() changed the tensor {name}")


@torch.no_grad()
def what_was_measured_was_saved(subject: Subject) -> None:
    """The detector read back from its file gives the scores that were measured"""
    size = settings(yaml.safe_load((subject.folder / "config.yaml").read_text())).dataset.size
    detector = load_detector(subject.folder)
    for row in _table(subject.folder / "predictions.csv"):
        pixels = torch.from_numpy(resized_image(subject.data / row["path"], size))
        found = float(detector(pixels.permute(2, 0, 1)[None].float() / 255).score)
        _same_score(found, float(row["score"]), row["path"])


def _same_score(found: float, stored: float, path: str) -> None:
    same = math.isclose(found, stored, rel_tol=1e-4, abs_tol=1e-5)
    _holds(same, f"{path} scored {found:.6g}, and {stored:.6g} when the run was tested")


def a_fresh_process_agrees(subject: Subject) -> None:
    """A fresh process scores renamed copies in another order, without labels, alike"""
    known = {row["path"]: float(row["score"]) for row in _table(subject.folder / "predictions.csv")}
    names = {f"{number:03d}.png": path for number, path in enumerate(sorted(known, reverse=True))}
    with tempfile.TemporaryDirectory() as place:
        copies = Path(place) / "copies"
        copies.mkdir()
        for name, path in names.items():
            shutil.copy(subject.data / path, copies / name)
        words = [f"run={subject.folder.resolve()}", f"dataset.root={copies}", "images.save=0"]
        target = _process(["test", *words], Path(place))
        for row in _table(Path(place) / target / "predictions.csv"):
            _holds(row["label"] == "-1", "a picture without a label got one")
            _same_score(float(row["score"]), known[names[row["path"]]], row["path"])


def _process(words: Sequence[str], place: Path) -> str:
    """Run a verb as a user does; return the last line it printed."""
    trusted = ",".join(sorted(trusted_packages() - {"adbench"}))
    path = os.pathsep.join(str(Path(entry or ".").absolute()) for entry in sys.path)
    done = subprocess.run(
        [sys.executable, "-m", "adbench", *words],
        cwd=place,
        env={**os.environ, PLUGINS: trusted, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    told = done.stderr.strip().splitlines()[-1:] or [""]
    _holds(done.returncode == 0, f"adbench {words[0]} ended with {done.returncode}: {told[0]}")
    return done.stdout.strip().splitlines()[-1]


def equal_seeds_give_equal_metrics(subject: Subject) -> None:
    """The same command elsewhere gives exactly the same metrics"""
    again = _figures(subject.train(subject.root / "again"))
    _holds(again == _figures(subject.folder), "two runs of one seed have different metrics.json")


def an_interrupted_run_resumes(subject: Subject) -> None:
    """A run interrupted after an epoch goes on to the uninterrupted result"""
    write = Checkpoint.on_train_epoch_end

    def interrupted(self: Checkpoint, trainer: Any, module: Any) -> None:
        write(self, trainer, module)
        raise KeyboardInterrupt

    root, said = subject.root / "interrupted", list[str]()
    try:
        with mock.patch.object(Checkpoint, "on_train_epoch_end", interrupted):
            subject.train(root)
    except KeyboardInterrupt:
        pass
    found, reference = _figures(subject.train(root, said.append)), _figures(subject.folder)
    _holds(any("resuming from" in line for line in said), "the second command did not resume")
    for part in ("image", "pixel"):
        for name, value in reference[part].items():
            here = found[part][name]
            same = here == value or math.isclose(here, value, rel_tol=0, abs_tol=1e-6)
            _holds(same, f"{part}.{name} is {here} resumed, {value} uninterrupted")


def a_size_that_does_not_fit_is_refused(subject: Subject) -> None:
    """A working size that it cannot take is refused before training"""
    needs = subject.requirements()
    if needs.size_multiple == 1:
        raise DoesNotApply("it takes any size")
    config = subject.configured(subject.root)
    wrong = settings({**config, "dataset": {**config["dataset"], "image_size": 8 * 37 + 1}})
    try:
        check_requirements(needs, wrong, read_samples(wrong.dataset, [CATEGORY]))
    except UserError as error:
        _holds("multiples of" in str(error), f"refused, but for another reason: {error}")
    else:
        raise AssertionError(f"297 px was taken, though size_multiple={needs.size_multiple}")


def an_export_agrees(subject: Subject) -> None:
    """Its ONNX file gives the detector's scores, maps and decisions"""
    if not subject.requirements().export:
        raise DoesNotApply("it declares that it cannot be exported")
    if importlib.util.find_spec("onnxscript") is None:
        raise DoesNotApply("the extra adbench[export] is not installed")
    with tempfile.TemporaryDirectory() as place:
        words = [f"run={subject.folder.resolve()}", "format=onnx", f"out={place}/file"]
        _process(["export", *words], Path(place))


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def _figures(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = read_json(folder / "metrics.json")
    document.pop("seconds")
    return document


CHECKS: tuple[Check, ...] = (
    builds_and_declares,
    trains_on_normal_images_alone,
    maps_have_the_size_of_the_image,
    scores_do_not_depend_on_the_batch,
    what_was_measured_was_saved,
    a_fresh_process_agrees,
    equal_seeds_give_equal_metrics,
    an_interrupted_run_resumes,
    a_size_that_does_not_fit_is_refused,
    an_export_agrees,
)
