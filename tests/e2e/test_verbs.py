"""The verbs as processes, on a tiny data set with a third party's method."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from tests.data import trees
from tests.e2e.verbs import REPOSITORY, TOY, metrics
from tests.e2e.verbs import process as adbench

FILES = (
    "config.yaml overrides.yaml run.json metrics.json curves.json history.csv predictions.csv "
    "detector.safetensors detector.yaml threshold.json scores.png log.txt"
).split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two categories in MVTec's layout, 24 px, a bright square as defect."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for category in ("nut", "bolt"):
        for folder, count, bad in (("train/good", 12, 0), ("test/good", 3, 0), ("test/spot", 3, 1)):
            for number in range(count):
                path = root / category / folder / f"{number:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = rng.integers(90, 110, (24, 24, 3), dtype=np.uint8)
                if bad:
                    image[6:12, 6:12] = 250
                    mask = np.zeros((24, 24), np.uint8)
                    mask[6:12, 6:12] = 255
                    truth = root / category / "ground_truth/spot" / f"{number:03d}_mask.png"
                    truth.parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(truth), mask)
                cv2.imwrite(str(path), image)
    return root


def toy(data, *more):
    keys = [f"dataset.root={data}", "dataset=mvtec", "dataset.image_size=24", "hardware=cpu"]
    return ["model=toy", *keys, *more, *TOY]


def last_line(run):
    return Path(run.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    cwd = tmp_path_factory.mktemp("runs")
    run = adbench("train", *toy(data, "dataset.category=nut"), cwd=cwd, check=0)
    return cwd, cwd / last_line(run), run


def test_loco_is_judged_by_kind_of_anomaly(tmp_path):
    trees.loco(tmp_path / "loco")
    words = toy(tmp_path / "loco", "dataset=mvtec_loco", "dataset.category=all")
    run = adbench("train", *words, cwd=tmp_path, check=0)
    assert "AUsPRO 0.05" in run.stdout
    for kind in ("pushpins logical", "pushpins structural", "pushpins mean"):
        assert kind in run.stdout
    document = metrics(tmp_path / last_line(run))
    assert set(document["by_kind"]) == {"logical", "structural", "mean"}
    assert set(document["spro"]["logical"]) == {
        f"spro_{n}" for n in ("01", "05", "10", "30", "100")
    }
    again = adbench("test", f"run={last_line(run)}", cwd=tmp_path, check=0)
    assert "AUsPRO 0.05" in again.stdout


def test_train_writes_the_run_folder(trained):
    _, folder, run = trained
    for name in (*FILES, "checkpoints/last.ckpt"):
        assert (folder / name).is_file(), name
    assert {path.name for path in folder.iterdir()} == {*FILES, ".lock", "checkpoints", "images"}
    assert len(list((folder / "images").glob("*.png"))) == 6
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["protocol"] == "honest"
    document = metrics(folder)
    assert document["image"]["auroc"] == 1.0
    assert document["counts"] == {"good": 3, "defective": 3, "unlabelled": 0, "without_mask": 0}
    assert document["threshold"]["source"] == "1 held-out normal images"
    assert set(document["by_defect"]) == {"spot"}
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert folder.relative_to(folder.parents[3]).parts[:3] == ("toy", "mvtec", "nut")
    assert "\x1b[" not in run.stdout + run.stderr


def test_a_finished_run_is_reported_not_repeated(trained, data):
    cwd, folder, _ = trained
    before = (folder / "metrics.json").stat().st_mtime_ns
    run = adbench("train", *toy(data, "dataset.category=nut"), cwd=cwd, check=0)
    assert "finished before" in run.stderr
    assert cwd / last_line(run) == folder
    assert (folder / "metrics.json").stat().st_mtime_ns == before


def test_equal_seeds_give_equal_metrics_and_other_seeds_other_ones(trained, data, tmp_path):
    _, folder, _ = trained
    again = adbench("train", *toy(data, "dataset.category=nut"), cwd=tmp_path, check=0)
    assert metrics(tmp_path / last_line(again)) == metrics(folder)
    other = adbench("train", *toy(data, "dataset.category=nut", "seed=1"), cwd=tmp_path, check=0)
    assert metrics(tmp_path / last_line(other)) != metrics(folder)


def test_test_repeats_the_metrics_exactly(trained):
    cwd, folder, _ = trained
    run = adbench("test", f"run={folder}", cwd=cwd, check=0)
    assert metrics(last_line(run)) == metrics(folder)


def test_test_on_another_category(trained):
    cwd, folder, _ = trained
    run = adbench("test", f"run={folder}", "dataset.category=bolt", cwd=cwd, check=0)
    assert last_line(run).name == "mvtec-bolt"
    assert metrics(last_line(run))["category"] == "bolt"


def test_kill_in_mid_training_then_the_same_command(trained, data, tmp_path):
    _, folder, _ = trained
    words = toy(data, "dataset.category=nut", "run.name=killed")
    killed = adbench("train", *words, cwd=tmp_path, TOY_DIES_AT="8")
    assert killed.returncode == -9
    target = tmp_path / "outputs/toy/mvtec/nut/killed"
    assert not (target / "metrics.json").exists()
    assert not list(target.rglob("*.tmp"))
    resumed = adbench("train", *words, cwd=tmp_path, check=0)
    assert "resuming from" in resumed.stderr
    found, reference = metrics(target), metrics(folder)
    for part in ("image", "pixel"):
        for name, value in reference[part].items():
            assert found[part][name] == pytest.approx(value, abs=1e-6), name
    assert len(list(csv.DictReader((target / "history.csv").open()))) == 4


def test_all_categories_give_a_mean_row(data, tmp_path):
    run = adbench("train", *toy(data, "train.epochs=1"), cwd=tmp_path, check=0)
    above = tmp_path / last_line(run)
    summary = json.loads(next(above.glob("summary-*.json")).read_text())
    assert set(summary["categories"]) == {"nut", "bolt"}
    values = [summary["categories"][c]["pixel"]["auroc"] for c in ("nut", "bolt")]
    assert summary["mean"]["pixel"]["auroc"] == pytest.approx(sum(values) / 2)
    assert "mean" in run.stdout


def test_multiclass_trains_one_model(data, tmp_path):
    words = toy(data, "train.epochs=1", "dataset.multiclass=true")
    run = adbench("train", *words, cwd=tmp_path, check=0)
    folder = tmp_path / last_line(run)
    assert folder.parent.name == "multiclass"
    assert metrics(folder)["counts"]["defective"] == 6


def test_a_sweep_skips_finished_cells_and_records_failed_ones(data, tmp_path):
    words = toy(data, "train.epochs=1", "dataset.category=nut", "model.width=4,0", "seed=1,2")
    run = adbench("sweep", *words, "sweep.name=s", cwd=tmp_path, check=1)
    folder = tmp_path / last_line(run)
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    assert [row["status"] for row in rows] == ["finished", "finished", "failed", "failed"]
    assert rows[2]["reason"]
    assert "±" in (folder / "sweep.md").read_text()
    again = adbench("sweep", *words, "sweep.name=s", "sweep.retry_failed=false", cwd=tmp_path)
    assert "4 done before" in again.stderr


def test_multirun_is_the_same_controller(data, tmp_path):
    words = toy(data, "train.epochs=1", "dataset.category=all", "sweep.name=m")
    run = adbench("train", *words, "--multirun", "seed=1,2", cwd=tmp_path, check=0)
    rows = list(csv.DictReader((tmp_path / last_line(run) / "sweep.csv").open()))
    assert len(rows) == 4
    assert {row["dataset.category"] for row in rows} == {"nut", "bolt"}


def test_the_honest_protocol_never_looks_at_the_test_set(data, tmp_path):
    words = toy(data, "dataset.category=nut", "train.select=test")
    refused = adbench("train", *words, cwd=tmp_path, check=2)
    assert "protocol=paper" in refused.stderr
    marked = adbench("train", *words, "protocol=paper", cwd=tmp_path, check=0)
    document = metrics(tmp_path / last_line(marked))
    assert document["protocol"] == "paper"
    assert document["oracle"]["epoch"] == document["epoch"]


def test_the_oracle_is_reported_and_not_selected_on(trained, data, tmp_path):
    _, folder, _ = trained
    words = toy(data, "dataset.category=nut", "train.oracle_every=1")
    document = metrics(tmp_path / last_line(adbench("train", *words, cwd=tmp_path, check=0)))
    assert document.pop("oracle")["image_auroc"] == 1.0
    assert document == metrics(folder)


ERRORS = {
    "a misspelt model": (["model=glas"], "did you mean 'glass'?"),
    "a misspelt key": (["train.step=1"], "did you mean 'steps'?"),
    "a missing root": (["dataset.root=nowhere"], "nowhere"),
    "a missing category": (["dataset.category=nutt"], "did you mean 'nut'?"),
    "a size that does not fit": (["dataset.image_size=21"], "dataset.image_size=24"),
    "several values": (["seed=1,2"], "adbench sweep"),
    "an unknown flag": (["--fast"], "no flag '--fast'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_request_that_cannot_be_carried_out_is_one_line_and_exit_2(data, tmp_path, case):
    words, told = ERRORS[case]
    run = adbench("train", *toy(data), *words, cwd=tmp_path, check=2)
    lines = run.stderr.strip().splitlines()
    assert told in lines[-1]
    assert lines[-1].startswith("adbench: ")
    assert "Traceback" not in run.stderr


def broken(root, case):
    good = root / "nut" / "train" / "good" / "000.png"
    bad = root / "nut" / "test" / "spot" / "000.png"
    truth = root / "nut" / "ground_truth" / "spot" / "000_mask.png"
    if case == "truncated":
        good.write_bytes(good.read_bytes()[:-40])
        return good
    if case == "text":
        bad.write_text("no picture")
        return bad
    if case == "mask":
        cv2.imwrite(str(truth), np.full((10, 10), 255, np.uint8))
        return truth
    for path in good.parent.iterdir():
        path.unlink()
    return good.parent


@pytest.mark.parametrize("case", ["truncated", "text", "mask", "empty"])
def test_a_bad_file_is_named_before_training(data, tmp_path, case):
    import shutil

    root = tmp_path / "data"
    shutil.copytree(data, root)
    culprit = broken(root, case)
    run = adbench("train", *toy(root, "dataset.category=nut"), cwd=tmp_path, check=2)
    last = run.stderr.strip().splitlines()[-1]
    assert culprit.name in last
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.glob("outputs/**/metrics.json"))


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(data, tmp_path):
    code = (
        "import sys, pathlib, adbench.training.session as s\n"
        "import errno\n"
        "def full(*a, **k): raise OSError(errno.ENOSPC, 'No space left on device', 'detector')\n"
        "s.save_detector = full\n"
        "from adbench.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = toy(data, "dataset.category=nut", "train.epochs=1", "run.name=full")
    run = subprocess.run(
        [sys.executable, "-c", code, "train", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert run.returncode == 2
    assert "No space left on device" in run.stderr.strip().splitlines()[-1]
    folder = tmp_path / "outputs/toy/mvtec/nut/full"
    assert not list(folder.rglob("*.tmp"))
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"


def test_own_pictures_are_named_from_the_current_folder(data, tmp_path):
    import shutil

    shutil.copytree(data / "nut" / "train" / "good", tmp_path / "parts" / "good")
    shutil.copytree(data / "nut" / "test" / "spot", tmp_path / "parts" / "bad")
    words = ["dataset=folder", "dataset.image_size=24", "train.epochs=1", "model=toy", *TOY]
    own = ["dataset.options.normal=parts/good", "dataset.options.abnormal=parts/bad"]
    run = adbench("train", *words, *own, cwd=tmp_path, check=0)
    found = metrics(tmp_path / last_line(run))
    assert found["image"]["auroc"] == 1.0
    assert found["pixel"]["auroc"] is None
    assert "without a mask" in found["why"]["pixel.excluded"]


def test_config_of_a_run_is_plain_yaml(trained):
    _, folder, _ = trained
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["dataset"]["category"] == "nut"
    assert config["train"]["epochs"] == 4


def test_data_check_and_list(data, tmp_path):
    run = adbench("data", "check", "dataset=mvtec", f"dataset.root={data}", cwd=tmp_path, check=0)
    assert "36 images, 0 errors" in run.stdout
    listed = adbench("data", "list", cwd=tmp_path, check=0)
    assert "mvtec_loco" in listed.stdout
    assert "CC BY-NC-SA 4.0" in listed.stdout


def test_runs_and_info(trained):
    cwd, _, _ = trained
    assert "finished" in adbench("runs", cwd=cwd, check=0).stdout
    assert "torch" in adbench("info", cwd=cwd, check=0).stdout
