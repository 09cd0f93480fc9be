"""Cross-fitting: who scores whom, what is refused, what the run says."""

from __future__ import annotations

import pytest

from adbench.config.compose import compose_config
from adbench.config.schema import settings
from adbench.data.opening import read_samples
from adbench.errors import UserError
from adbench.runs.files import read_json
from adbench.training.data import build_datamodule
from adbench.training.session import train
from tests.conformance.test_methods import configured, data, quiet

assert data  # the fixture


def test_every_normal_is_left_out_once_and_trained_on_otherwise(data):
    keys = settings(configured("patchcore", data, "x"))
    samples = read_samples(keys.dataset, ["nut"])
    everything = {
        s.relative for s in build_datamodule(keys, samples, all_normals=True).splits.train
    }
    left_out = []
    for number in range(3):
        splits = build_datamodule(keys, samples, fold=(number, 3)).splits
        assert {s.relative for s in splits.train} | {s.relative for s in splits.val} == everything
        assert not {s.relative for s in splits.train} & {s.relative for s in splits.val}
        assert splits.test == []
        left_out += [s.relative for s in splits.val]
    assert sorted(left_out) == sorted(everything)


@pytest.mark.parametrize("model", ["patchcore", "reference"])
def test_the_threshold_comes_from_all_normals(model, data, tmp_path):
    said = []
    (folder,) = train(configured(model, data, tmp_path, "threshold.folds=3"), [], said.append)
    assert any("7 normal images to train, 0 held out" in line for line in said)
    stored = read_json(folder / "threshold.json")
    assert len(stored["held_out_scores"]) == 7
    assert stored["source"] == "7 normal images, each left out of one of 3 detectors"
    assert stored["expected_false_alarm_rate"] == 0.125
    assert stored["pixel"] > 0
    assert read_json(folder / "metrics.json")["threshold"]["false_alarm_rate"] is not None


def test_features_kept_for_all_folds_change_nothing(data, tmp_path, monkeypatch):
    from adbench.training import crossfit

    def scores(root):
        (folder,) = train(configured("padim", data, root, "threshold.folds=3"), [], quiet)
        return read_json(folder / "threshold.json")["held_out_scores"]

    kept = scores(tmp_path / "kept")
    monkeypatch.setattr(crossfit, "RowMemo", lambda: None)
    assert scores(tmp_path / "anew") == pytest.approx(kept, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model=dfr", "threshold.folds=3"], "learns step by step"),
        (["model=patchcore", "train.refit=true"], "trains on all normal images"),
        (["model=patchcore", "threshold.folds=1"], "at least 2 folds"),
        (["model=patchcore", "threshold.folds=-1"], r"threshold\.folds=-1"),
    ],
)
def test_what_cannot_be_cross_fitted_is_refused(words, told, data, tmp_path):
    shrink = ["model.patch=8", "model.stride=8"] if "model=dfr" in words else []
    config = compose_config(
        "train",
        [
            *words,
            *shrink,
            "backbone=bundled",
            "dataset=mvtec",
            f"dataset.root={data}",
            "dataset.category=nut",
            "dataset.image_size=64",
            f"run.root={tmp_path}",
        ],
    )
    with pytest.raises(UserError, match=told):
        train(config, [], quiet)
