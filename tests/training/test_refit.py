"""Training once more on all normals: what is trained on, where the threshold comes from."""

from __future__ import annotations

import numpy as np
import pytest

from adbench.errors import UserError
from adbench.runs.files import read_json
from adbench.runs.folder import RunFolder
from adbench.training.session import train
from adbench.training.testing import repeated_test as repeated
from tests.conformance.test_methods import configured, data, quiet

assert data  # the fixture


def trained(data, root, *more, model="glass", say=quiet):
    config = configured(model, data, root, "train.refit=true", *more)
    (folder,) = train(config, [], say)
    return folder, config


def epochs(folder):
    return np.atleast_1d(np.genfromtxt(folder / "history.csv", delimiter=",", names=True)).size


def test_the_second_training_sees_all_normals_and_keeps_the_first_ones_threshold(data, tmp_path):
    lines = []
    folder, config = trained(data, tmp_path, say=lines.append)
    told = [line for line in lines if "normal images to train" in line]
    assert [line.split(": ")[1].split(", ")[0:2] for line in told] == [
        ["6 normal images to train", "1 held out"],
        ["7 normal images to train", "0 held out"],
    ]
    first, last = (read_json(f / "metrics.json") for f in (folder / "held_out", folder))
    assert last["threshold"]["value"] == first["threshold"]["value"]
    assert last["pixel"]["auroc"] != first["pixel"]["auroc"]
    target, again = repeated(RunFolder(folder), config, quiet, elsewhere=False)
    assert target.is_relative_to(folder)
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in last.items() if k != "seconds"
    }


def test_the_epoch_that_validation_chose_is_what_the_second_training_runs(data, tmp_path):
    folder, _ = trained(
        data, tmp_path, "synthesis=las", "train.epochs=3", "train.select=validation"
    )
    chosen = read_json(folder / "held_out" / "metrics.json")["epoch"]
    assert epochs(folder / "held_out") == 3
    assert epochs(folder) == chosen == read_json(folder / "metrics.json")["epoch"]


def test_a_second_command_does_not_repeat_the_first_training(data, tmp_path, monkeypatch):
    config = configured("glass", data, tmp_path, "train.refit=true")

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("adbench.training.session.refit_keys", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, [], quiet)
    lines = []
    (folder,) = train(config, [], lines.append)
    assert any("held_out: finished before" in line for line in lines)
    whole, _ = trained(data, tmp_path / "whole")
    found, expected = (read_json(f / "metrics.json") for f in (folder, whole))
    assert {k: v for k, v in found.items() if k != "seconds"} == {
        k: v for k, v in expected.items() if k != "seconds"
    }


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["dataset.hold_out=0"], "needs held-out normals"),
        (["protocol=paper", "train.select=test"], "contradict"),
    ],
)
def test_what_cannot_be_refitted_is_refused(data, tmp_path, more, told):
    with pytest.raises(UserError, match=told):
        trained(data, tmp_path, *more)


def test_a_method_that_needs_them_is_refused_before_the_first_training(data, tmp_path):
    with pytest.raises(UserError, match="settles its maps on held-out normals"):
        trained(data, tmp_path, model="ulsad")
    assert not list(tmp_path.rglob("history.csv"))
