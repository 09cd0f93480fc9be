"""The contract in force: every method of conf/model, shrunk, on a tiny data set.

The checks are adbench/conformance, which `adbench test-method` runs on anybody's. A method passes
without writing any of it; its test folder brings ``shrink.yaml``, the overrides that make it small.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from adbench.config.locate import options
from adbench.conformance import CHECKS, DoesNotApply, Subject
from adbench.errors import UserError
from tests.data import trees
from tests.deploy.equal import scores_by_everything

MODELS = options("model")
EXPORTED = ("glass", "simplenet", "glad")
MORE = ("ulsad", "dfr", "realnet", "patchcore", "subspace")
FOLDER = Path(__file__).parents[1] / "methods"


def words(model):
    return [f"model={model}", *yaml.safe_load((FOLDER / model / "shrink.yaml").read_text())]


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
    """Return the shrunk configuration of a model, its run folders below ``root``."""
    return Subject(words(model), data, Path(root)).configured(Path(root), *more)


def quiet(line):
    pass


@pytest.fixture(scope="module", params=MODELS)
def subject(request, data, tmp_path_factory):
    """One method, shrunk; it is trained once for all checks."""
    return Subject(words(request.param), data, tmp_path_factory.mktemp(request.param))


# tests/deploy exports what declares that it can be
@pytest.mark.parametrize("check", [c for c in CHECKS if c.__name__ != "an_export_agrees"])
def test_every_method(subject, check):
    try:
        check(subject)
    except DoesNotApply as reason:
        pytest.skip(str(reason))


@pytest.mark.slow
def test_detector_exports_and_service_give_one_score(subject, tmp_path):
    _one_score(subject, tmp_path, EXPORTED)


@pytest.mark.long
def test_detector_exports_and_service_of_the_others_give_one_score(subject, tmp_path):
    _one_score(subject, tmp_path, MORE)


def _one_score(subject, tmp_path, models):
    model, folder = subject.words[0].partition("=")[2], subject.folder
    if model not in models:
        pytest.skip("not one of these")
    stored = {
        subject.data / row["path"]: float(row["score"])
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
        assert scores == pytest.approx(known, abs=close, rel=close), name


def test_every_method_has_a_page_and_a_shrunk_setting():
    import adbench

    for model in MODELS:
        assert (FOLDER / model / "shrink.yaml").is_file(), model
        page = Path(adbench.__file__).parent / "methods" / model / "README.md"
        assert page.is_file(), model
