"""Test pictures stay closed until the test phase."""

from __future__ import annotations

import json

import pytest

from adbench.errors import UserError
from adbench.training.seal import sealed
from tests.e2e.verbs import tiny_data, toy
from tests.toy.method import OPENINGS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("how", OPENINGS)
def test_a_method_that_opens_test_files_is_stopped_and_marked(here, data, how, silent):
    own = ["dataset.category=nut", f"model.how={how}", f"model.silent={silent}", "run.name=x"]
    run = here("train", *toy(data, *own, model="toy_peeping"), check=2)
    assert "not the honest protocol" in run.told
    folder = here.folder / "outputs/toy_peeping/mvtec/nut/x"
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "failed"
    assert "test set" in record["reason"]
    assert not (folder / "metrics.json").exists()


def test_a_seal_knows_files_by_what_they_are_not_by_their_names(tmp_path):
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "b.png").write_bytes(b"2")
    (tmp_path / "hard.bin").hardlink_to(tmp_path / "a.png")
    with sealed([tmp_path / "a.png"]) as seal:
        assert (tmp_path / "b.png").read_bytes() == b"2"
        for name in ("a.png", "hard.bin"):
            with pytest.raises(UserError, match="before the test phase"):
                (tmp_path / name).read_bytes()
        with seal.opened():
            assert (tmp_path / "a.png").read_bytes() == b"1"
        with pytest.raises(UserError):
            (tmp_path / "a.png").read_text()
    assert len(seal.broken) == 3
    assert (tmp_path / "a.png").read_bytes() == b"1"


def test_the_oracle_may_look_because_it_was_asked_to(here, data):
    words = toy(data, "dataset.category=nut", "train.oracle_every=1", "train.epochs=1")
    run = here("train", *words, check=0)
    assert json.loads((run.path / "run.json").read_text())["sealed"] == {"files": 9, "opened": []}
