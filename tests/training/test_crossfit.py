"""Cross-fitting: who scores whom, what is refused, what the run says."""

from __future__ import annotations

import pytest

from adbench.config.schema import settings
from adbench.data.opening import read_samples
from adbench.errors import UserError
from adbench.methods.glass.module import GlassModule
from adbench.methods.memo import RowMemo
from adbench.runs.files import read_json
from adbench.training import crossfit, session
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


def scored_folds(model, data, root, *words):
    (folder,) = train(configured(model, data, root, "threshold.folds=3", *words), [], quiet)
    return read_json(folder / "threshold.json")["held_out_scores"]


POOLED = [
    "model.rows=64",
    "model.hypothesis=manifold",
    "model.bank.size=20",
    "model.las_copies=2",
    "synthesis=cutpaste",
]


@pytest.mark.parametrize(
    ("model", "more"), [("padim", []), ("glass", [*POOLED, "model.las=false"])]
)
def test_features_kept_for_all_folds_change_nothing(model, more, data, tmp_path, monkeypatch):
    kept = scored_folds(model, data, tmp_path / "kept", *more)
    monkeypatch.setattr(session, "shared_features", lambda keys: None)
    anew = scored_folds(model, data, tmp_path / "anew", *more)
    assert anew == pytest.approx(kept, rel=1e-3)  # batches of other sizes round otherwise


@pytest.mark.parametrize("model", ["glass", "dfr", "simplenet"])
def test_methods_that_learn_by_steps_are_cross_fitted_too(model, data, tmp_path):
    scores = scored_folds(model, data, tmp_path)
    assert len(scores) == 7
    assert len(set(scores)) > 1


def test_folds_make_no_local_anomaly_and_read_no_normal_image_again(data, tmp_path, monkeypatch):
    seen = []
    raw = GlassModule._raw

    def counted(self, image):
        seen.append(len(image))
        return raw(self, image)

    monkeypatch.setattr(GlassModule, "_raw", counted)
    scored_folds("glass", data, tmp_path, *POOLED)
    assert sum(seen) == 7 * (1 + 2)


def test_a_fold_knows_nothing_of_what_it_scores(data, tmp_path, monkeypatch):
    """What it was made of: the photographs of the other folds, and local anomalies on those."""
    asked = []
    rows = RowMemo.rows

    def noted(self, batch, compute, kind=""):
        asked.append(set(batch.path))
        return rows(self, batch, compute, kind)

    monkeypatch.setattr(RowMemo, "rows", noted)
    scored = []
    held = crossfit.held_out

    def watched(detector, datamodule, *rest, **more):
        scored.append({sample.relative for sample in datamodule.val_samples})
        known = set().union(*asked)
        assert known
        assert not known & scored[-1]
        asked.clear()
        return held(detector, datamodule, *rest, **more)

    monkeypatch.setattr(crossfit, "held_out", watched)
    forget = crossfit.cross_fitted

    def begun(*given):
        asked.clear()  # the run's own detector is made of all
        return forget(*given)

    monkeypatch.setattr(session, "cross_fitted", begun)
    scored_folds("glass", data, tmp_path, *POOLED)
    assert len(scored) == 3
    assert len(set().union(*scored)) == 7


@pytest.mark.parametrize(
    ("model", "words", "told"),
    [
        ("ulsad", ["threshold.folds=3"], "settled on held-out"),
        ("gaa", ["threshold.folds=3", "dataset.defects=third"], "trains in stages"),
        ("dfr", ["threshold.folds=3", "hardware.strategy=ddp"], "trained by one process"),
        (
            "glass",
            ["threshold.folds=3", "train.select=validation", "train.validate_every=1"],
            "end with their last step",
        ),
        ("patchcore", ["threshold.folds=3", "train.refit=true"], "trains on all normal images"),
        ("patchcore", ["threshold.folds=1"], "at least 2 folds"),
        ("patchcore", ["threshold.folds=-1"], r"threshold\.folds=-1"),
    ],
)
def test_what_cannot_be_cross_fitted_is_refused(model, words, told, data, tmp_path):
    with pytest.raises(UserError, match=told):
        train(configured(model, data, tmp_path, *words), [], quiet)
