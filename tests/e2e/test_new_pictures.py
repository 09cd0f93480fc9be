"""A trained detector and pictures it has never seen."""

from __future__ import annotations

import csv
import json
import shutil

import cv2
import numpy as np
import pytest

from tests.e2e.verbs import TOY, metrics, process, tiny_data, toy


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("original")
    data = tiny_data(cwd / "data", categories=("nut", "bolt"), train=20)
    words = toy(data, "dataset.category=nut", "run.name=x", "train.epochs=1")
    process("train", *words, cwd=cwd, check=0)
    return cwd


@pytest.fixture
def moved(original, here):
    """(run folder, data folder): a finished run; both copied to where they were not trained."""
    shutil.copytree(original / "outputs", here.folder / "runs")
    shutil.copytree(original / "data", here.folder / "elsewhere")
    return here.folder / "runs/toy/mvtec/nut/x", here.folder / "elsewhere"


def decisions(folder):
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    return {row["path"]: row["decision"] for row in rows}


def test_the_threshold_is_the_one_stored_with_the_run(moved, here):
    run, data = moved
    stored = json.loads((run / "threshold.json").read_text())
    for image in (data / "bolt/train/good").iterdir():  # what the line makes now is darker
        cv2.imwrite(str(image), cv2.imread(str(image)) // 2)
    done = here("test", f"run={run}", f"dataset.root={data}", "dataset.category=bolt", check=0)
    found = metrics(done.path)["threshold"]
    assert found["value"] == stored["value"]
    assert found["source"] == "2 held-out normal images"
    assert f"threshold {stored['value']:.6g}" in done.err


def test_pictures_without_labels_are_scored_and_decided(moved, here):
    run, data = moved
    line = here.folder / "line"
    (line / "monday").mkdir(parents=True)
    shutil.copy(data / "nut/test/good/000.png", line / "monday/a.png")
    shutil.copy(data / "nut/test/spot/000.png", line / "b.png")
    done = here("test", f"run={run}", f"dataset.root={line}", check=0)
    assert "without labels" in done.err
    found = decisions(done.path)
    assert found == {"monday/a.png": found["monday/a.png"], "b.png": "anomalous"}
    document = metrics(done.path)
    assert document["counts"]["unlabelled"] == 2
    assert document["image"]["auroc"] is None


def test_a_root_with_only_test_pictures_is_scored(moved, here):
    run, data = moved
    shutil.rmtree(data / "nut/train")
    done = here("test", f"run={run}", f"dataset.root={data}", check=0)
    assert metrics(done.path)["image"]["auroc"] == 1.0


def test_a_missing_category_is_told_and_not_read_as_something_else(moved, here):
    run, data = moved
    words = [f"run={run}", f"dataset.root={data}", "dataset.category=nutt"]
    assert "did you mean 'nut'" in here("test", *words, check=2).told


def test_another_threshold_is_only_ever_asked_for(moved, here):
    run, data = moved
    stored = json.loads((run / "threshold.json").read_text())
    scores = sorted(stored["held_out_scores"])
    done = here("test", f"run={run}", "threshold.false_alarm_rate=0.7", check=0)
    assert metrics(done.path)["threshold"]["value"] == scores[-2]
    normals = here.folder / "normals"
    shutil.copytree(data / "bolt/test/good", normals)
    done = here("test", f"run={run}", f"threshold.calibrate={normals}", check=0)
    found = metrics(done.path)["threshold"]
    assert found["source"] == f"3 pictures of {normals}"
    assert json.loads((run / "threshold.json").read_text()) == stored


def test_what_was_trained_on_never_counts_as_held_out(moved, here):
    run, data = moved
    normals = here.folder / "normals"
    normals.mkdir()
    for number, path in enumerate(sorted((data / "nut/train/good").iterdir())):
        shutil.copy(path, normals / f"renamed{number}.png")
    refused = here("test", f"run={run}", f"threshold.calibrate={normals}", check=2)
    assert "trained on" in refused.told
    line = here.folder / "line"
    shutil.copytree(data / "nut/train/good", line)
    done = here("test", f"run={run}", f"dataset.root={line}", check=0)
    assert "trained on" in done.err


def test_a_run_finds_its_data_from_another_folder(original, here):
    done = here("test", f"run={original / 'outputs/toy/mvtec/nut/x'}", check=0)
    assert metrics(done.path)["image"]["auroc"] == 1.0


def test_own_folders_keep_their_name_wherever_one_is(here, original, monkeypatch, tmp_path):
    shutil.copytree(original / "data/nut/train/good", here.folder / "parts/good")
    shutil.copytree(original / "data/nut/test/spot", here.folder / "parts/bad")
    words = ["dataset=folder", "dataset.image_size=24", "train.epochs=1", "model=toy", *TOY]
    own = ["dataset.options.normal=parts/good", "dataset.options.abnormal=parts/bad"]
    run = here("train", *words, *own, check=0).path
    assert run.parent.name == "parts"
    monkeypatch.chdir(tmp_path)
    assert here("test", f"run={run}", check=0).code == 0
    new = tmp_path / "new folder, täglich=1"
    new.mkdir()
    shutil.copy(original / "data/nut/test/spot/000.png", new / "x.png")
    done = here("test", f"run={run}", f"dataset.root={new}", check=0)
    assert list(decisions(done.path).values()) == ["anomalous"]


def test_pictures_of_one_stem_keep_apart(here, tmp_path):
    for line, grey in (("one", 90), ("two", 160)):
        for kind, count in (("good", 8), ("bad", 3)):
            for number in range(count):
                path = tmp_path / f"parts/{line}/{kind}/{number:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = np.full((24, 24, 3), grey, np.uint8)
                if kind == "bad":
                    image[4:9, 4:9] = 250
                cv2.imwrite(str(path), image)
    own = [
        f"dataset.root={tmp_path / 'parts'}",
        "dataset.options.normal=[one/good,two/good]",
        "dataset.options.abnormal=[one/bad,two/bad]",
    ]
    words = ["dataset=folder", "dataset.image_size=24", "train.epochs=1", "model=toy", *TOY]
    run = here("train", *words, *own, "images.save=all", check=0).path
    predictions = len(decisions(run))
    assert len(list((run / "images").glob("*.png"))) == predictions


def test_training_does_not_take_a_folder_to_calibrate_on_in_silence(here, original):
    words = toy(original / "data", "dataset.category=nut", "threshold.calibrate=somewhere")
    assert "is for adbench test" in here("train", *words, check=2).told


def test_no_threshold_is_said_with_the_reason_that_is_true(here, original):
    words = toy(original / "data", "dataset.category=nut", "dataset.hold_out=0", "train.epochs=1")
    run = here("train", *words, check=0)
    assert "no threshold, no decisions: no normal image was held out" in run.err


def test_a_run_is_tested_on_another_data_set_by_its_name(original, here, tmp_path):
    root = tmp_path / "MAD-man"
    for person in ("Person_1", "Person_2"):
        for defect in ("good", "spot"):
            source = original / "data/nut/test" / defect
            shutil.copytree(source, root / person / "nut/test" / defect)
        shutil.copytree(original / "data/nut/ground_truth", root / person / "nut/ground_truth")
    run = original / "outputs/toy/mvtec/nut/x"
    words = [f"run={run}", "dataset=mad_man", f"dataset.root={tmp_path}"]
    more = [f"dataset.options.train_root={original / 'data'}"]
    folders = set()
    for subset in ("Person_1", "Person_2"):
        done = here("test", *words, *more, f"dataset.options.subset={subset}", check=0)
        folders.add(done.path.name)
        assert metrics(done.path)["by_group"][subset]["pixel"]["auroc"] is not None
    assert folders == {"mad_man-nut-Person_1", "mad_man-nut-Person_2"}


def test_figures_by_another_convention_are_marked(original, here):
    run = original / "outputs/toy/mvtec/nut/x"
    done = here("test", f"run={run}", "metrics.resolution=working", check=0)
    assert metrics(done.path)["marks"] == ["pixels judged at the working size"]
    assert "pixels judged at the working size" in done.out
