"""The contract in force: every method of conf/model, shrunk, on a tiny data set.

A method passes without writing any of it; its test folder brings ``shrink.yaml``, the overrides
that make it small.
"""

from __future__ import annotations

import csv
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from adbench.config.compose import compose_config
from adbench.config.locate import options
from adbench.config.schema import settings
from adbench.data.cache import resized_image
from adbench.data.opening import read_samples
from adbench.errors import UserError
from adbench.methods.base import AnomalyModule, load_detector
from adbench.runs.files import read_json
from adbench.training.build import build_module
from adbench.training.checkpoints import Checkpoint
from adbench.training.data import build_datamodule, check_requirements
from adbench.training.session import train
from tests.data import trees
from tests.deploy.equal import scores_by_everything
from tests.e2e.verbs import process

MODELS = options("model")
EXPORTED = ("glass", "ulsad", "dfr", "realnet", "simplenet", "patchcore", "subspace")
FOLDER = Path(__file__).parents[1] / "methods"


def shrunk(model):
    return yaml.safe_load((FOLDER / model / "shrink.yaml").read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for i in range(7):
        trees.image(root / "nut/train/good" / f"{i:03d}.png", size=(48, 40))
    for i in range(3):
        trees.image(root / "nut/test/good" / f"{i:03d}.png", size=(48, 40))
        trees.image(root / "nut/test/hole" / f"{i:03d}.png", size=(48, 40))
        trees.mask(root / "nut/ground_truth/hole" / f"{i:03d}_mask.png", size=(48, 40))
    return root


def configured(model, data, root, *more):
    return compose_config(
        "train",
        [
            f"model={model}",
            "dataset=mvtec",
            f"dataset.root={data}",
            "dataset.category=nut",
            "dataset.hold_out=0.15",
            "hardware=cpu",
            "hardware.threads=1",
            "train.epochs=2",
            "train.batch_size=4",
            "train.checkpoint_minutes=0",
            "images.save=1",
            f"run.root={root}",
            "run.name=tiny",
            *shrunk(model),
            *more,
        ],
    )


def quiet(line):
    pass


def refused(*arguments, **keys):
    raise OSError("no network in a conformance test")


@pytest.fixture(scope="module", params=MODELS)
def run(request, data, tmp_path_factory):
    """One shrunk training: (model, run folder, test-set sizes that training code saw)."""
    model = request.param
    seen = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket.socket, "connect", refused)
        for name in ("prepare", "finish"):
            kind = type(build_module(config := configured(model, data, "x"), settings(config)))
            patched.setattr(kind, name, watched(getattr(kind, name), seen))
        config = configured(model, data, tmp_path_factory.mktemp(model))
        (folder,) = train(config, [], quiet)
    return model, folder, seen


def watched(method, seen):
    def called(self: AnomalyModule, datamodule):
        seen.append(len(datamodule.test_samples))
        return method(self, datamodule)

    return called


def images(data):
    paths = sorted((data / "nut" / "test").rglob("*.png"))
    pixels = np.stack([resized_image(path, (48, 40)) for path in paths])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def test_losses_are_finite_and_training_saw_no_test_image(run):
    _, folder, seen = run
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert len(rows) == 2
    assert all(np.isfinite(float(value)) for row in rows for value in row.values() if value)
    assert seen
    assert not any(seen)


@torch.no_grad()
def test_maps_come_back_at_the_size_of_the_image(run):
    _, folder, _ = run
    detector = load_detector(folder)
    for size in ((48, 40), (33, 65)):
        image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
        score, anomaly_map = detector(image)
        assert anomaly_map.shape == (2, 1, *size)
        assert score.shape == (2,)
        assert score.dtype == anomaly_map.dtype == torch.float32
        assert torch.isfinite(anomaly_map).all()
        for partial in detector.named_maps(image).values():
            assert partial.shape == (2, 1, *size)


@torch.no_grad()
def test_scores_do_not_depend_on_the_batch_and_forward_changes_nothing(run, data):
    _, folder, _ = run
    detector = load_detector(folder)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    batch = images(data)
    together = detector(batch)
    alone = [detector(image[None]) for image in batch]
    turned = detector(batch.flip(0))
    for row, single in enumerate(alone):
        assert torch.allclose(single.score[0], together.score[row], atol=1e-5, rtol=1e-5)
        assert torch.allclose(single.anomaly_map[0], together.anomaly_map[row], atol=1e-5)
    assert torch.allclose(turned.score.flip(0), together.score, atol=1e-5, rtol=1e-5)
    for name, value in detector.state_dict().items():
        assert torch.equal(value, before[name]), name


@torch.no_grad()
def test_what_was_measured_is_what_was_saved(run, data):
    _, folder, _ = run
    size = settings(yaml.safe_load((folder / "config.yaml").read_text())).dataset.size
    stored = {
        row["path"]: float(row["score"])
        for row in csv.DictReader((folder / "predictions.csv").open())
    }
    detector = load_detector(folder)
    for path, score in stored.items():
        pixels = torch.from_numpy(resized_image(data / path, size)).permute(2, 0, 1)[None]
        assert float(detector(pixels.float() / 255).score) == pytest.approx(
            score, rel=1e-4, abs=1e-5
        )


def test_a_fresh_process_scores_renamed_copies_in_another_order_alike(run, data, tmp_path):
    """What a leaderboard counts: nothing remembered, no name, no order, no label helps."""
    _, folder, _ = run
    known = {
        row["path"]: float(row["score"])
        for row in csv.DictReader((folder / "predictions.csv").open())
    }
    names = {f"{number:03d}.png": path for number, path in enumerate(sorted(known, reverse=True))}
    for name, path in names.items():
        (tmp_path / "copies").mkdir(exist_ok=True)
        shutil.copy(data / path, tmp_path / "copies" / name)
    words = [f"run={folder}", f"dataset.root={tmp_path / 'copies'}", "images.save=0"]
    done = process("test", *words, cwd=tmp_path, check=0)
    target = Path(done.stdout.strip().splitlines()[-1])
    rows = list(csv.DictReader((target / "predictions.csv").open()))
    assert len(rows) == len(known)
    for row in rows:
        assert row["label"] == "-1"
        score = known[names[row["path"]]]
        assert float(row["score"]) == pytest.approx(score, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_detector_exports_and_service_give_one_score(run, data, tmp_path):
    model, folder, _ = run
    if model not in (*EXPORTED, "glad"):
        pytest.skip("exported alike, not promised")
    stored = {
        data / row["path"]: float(row["score"])
        for row in csv.DictReader((folder / "predictions.csv").open())
    }
    files = list(stored)
    if model == "glad":
        with pytest.raises(UserError, match="has no export: "):
            scores_by_everything(folder, model, files, tmp_path)
        return
    found = scores_by_everything(folder, model, files, tmp_path)
    assert set(found) == {"reloaded", "service", "onnx", "openvino", "fp16"}
    for name, scores in found.items():
        known, close = list(stored.values()), 1e-2 if name == "fp16" else 1e-4
        print(model, name, max(abs(a - b) for a, b in zip(scores, known, strict=True)))
        assert scores == pytest.approx(known, abs=close, rel=close), name


def figures(folder):
    document = read_json(folder / "metrics.json")
    document.pop("seconds")
    return document


def test_equal_seeds_give_equal_metrics(run, data, tmp_path):
    model, folder, _ = run
    (again,) = train(configured(model, data, tmp_path), [], quiet)
    assert figures(again) == figures(folder)


def test_an_interrupted_run_resumes_to_the_same_result(run, data, tmp_path, monkeypatch):
    model, folder, _ = run
    write = Checkpoint.on_train_epoch_end

    def interrupted(self, trainer, module):
        write(self, trainer, module)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "on_train_epoch_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(configured(model, data, tmp_path), [], quiet)
    monkeypatch.setattr(Checkpoint, "on_train_epoch_end", write)
    said = []
    (resumed,) = train(configured(model, data, tmp_path), [], said.append)
    assert any("resuming from" in line for line in said)
    found, reference = figures(resumed), figures(folder)
    for part in ("image", "pixel"):
        for name, value in reference[part].items():
            assert found[part][name] == pytest.approx(value, abs=1e-6), (part, name)


def test_a_size_that_does_not_fit_is_refused_before_training(run, data):
    model, _, _ = run
    config = configured(model, data, "x")
    module = build_module(config, settings(config))
    needs = module.requirements(7)
    if needs.size_multiple == 1:
        pytest.skip(f"{model} takes any size")
    wrong = settings({**config, "dataset": {**config["dataset"], "image_size": 8 * 37 + 1}})
    samples = read_samples(wrong.dataset, ["nut"])
    with pytest.raises(UserError, match="multiples of"):
        check_requirements(needs, wrong, samples)
    assert build_datamodule(settings(config), samples).train_samples


def test_every_method_has_a_page_and_a_shrunk_setting():
    import adbench

    for model in MODELS:
        assert (FOLDER / model / "shrink.yaml").is_file(), model
        page = Path(adbench.__file__).parent / "methods" / model / "README.md"
        assert page.is_file(), model
