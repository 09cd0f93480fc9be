"""`adbench test-method` on the documentation's example, and on methods that break the contract."""

from __future__ import annotations

import pytest

from adbench import conformance
from adbench.methods.base import Prediction
from tests.e2e.verbs import REPOSITORY
from tests.toy.method import ToyDetector, ToyModule

EXAMPLE = REPOSITORY / "docs" / "example"


class Neighbourly(ToyDetector):
    """Divides by the largest value of the batch."""

    def forward(self, image):
        score, found = super().forward(image)
        return Prediction(score / score.max(), found)


class NeighbourlyModule(ToyModule):
    def __init__(self, **keys):
        super().__init__(**keys)
        self.detector = Neighbourly()


class Careless(ToyModule):
    def prepare(self, datamodule):
        raise RuntimeError("no such thing")


@pytest.fixture
def cheap(monkeypatch):
    """The checks that start no process: those run on every method by test_methods."""
    left_out = ("a_fresh_process_agrees", "an_export_agrees", "an_interrupted_run_resumes")
    kept = tuple(check for check in conformance.CHECKS if check.__name__ not in left_out)
    monkeypatch.setattr(conformance, "CHECKS", kept)


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))


def test_the_example_of_the_documentation_passes(cheap, example, here):
    conf = ["--config-dir", str(EXAMPLE / "conf")]
    run = here("test-method", "dots", "dataset.image_size=32", *conf, check=0)
    lines = run.out.strip().splitlines()
    assert lines[-1] == "dots: conforms"
    assert [line.split()[0] for line in lines[:-1]].count("ok") == 6


@pytest.mark.long
def test_the_example_passes_all_checks(example, here):
    conf = ["--config-dir", str(EXAMPLE / "conf")]
    assert here("test-method", "dots", "dataset.image_size=32", *conf).code == 0


def test_the_examples_synthesizer_passes(example, here):
    run = here("test-method", "dots.synthesizer.Dots", "synthesis.largest=0.2", check=0)
    assert run.out.strip().splitlines()[-1] == "dots.synthesizer.Dots: conforms"


def test_the_examples_data_set_is_read(example, here, tmp_path):
    from tests.data import trees

    for name in ("ok_1", "ok_2", "check/ok_3", "check/ng_4"):
        trees.image(tmp_path / "flat/nut" / f"{name}.png", size=(24, 24))
    words = ["dataset=flat", f"dataset.root={tmp_path / 'flat'}", "full=false"]
    run = here("data", "check", *words, "--config-dir", str(EXAMPLE / "conf"), check=0)
    assert "4 images" in run.out


def test_what_breaks_the_contract_is_named(cheap, here):
    keys = ["backbone=none", "synthesis=none", "dataset.image_size=24"]
    run = here("test-method", "tests.conformance.test_verb.NeighbourlyModule", *keys, check=1)
    lines = run.out.splitlines()
    failed = [lines[i + 1] for i, line in enumerate(lines) if line.startswith("FAILED")]
    assert any("score of an image alone and in a batch" in line for line in failed), run.out
    assert lines[-1].endswith("checks failed")


def test_a_fault_of_the_method_is_an_answer_not_a_traceback(monkeypatch, here):
    monkeypatch.setattr(conformance, "CHECKS", conformance.CHECKS[:2])
    keys = ["backbone=none", "synthesis=none", "dataset.image_size=24"]
    run = here("test-method", "tests.conformance.test_verb.Careless", *keys, check=1)
    assert "no such thing" in run.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "package.module.Class"),
        (["patchcor"], "did you mean 'patchcore'?"),
        (["nowhere.method.Class"], "cannot be imported"),
        (["torch.nn.Linear"], "neither an AnomalyModule nor a Synthesizer"),
        (["tests.toy.method.ToyModule", "model.wdth=3"], "wdth"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_line(here, words, told):
    assert told in here("test-method", *words, check=2).told
