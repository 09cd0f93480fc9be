"""A run folder answers for one configuration, one set of pictures, one state of the code."""

from __future__ import annotations

import json
import shutil

import pytest

from adbench.runs import identity
from tests.e2e.verbs import metrics, process, record, tiny_data, toy


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def named(here, data):
    """A finished run called x, its words, and the command line."""
    words = toy(data, "run.name=x", "dataset.category=nut", "train.epochs=1")
    return here("train", *words, check=0).path, words, here


OTHERS = {
    "seed": (["seed=1"], "seed=0, now 1"),
    "key": (["model.noise=0.2"], "model.noise=0.1, now 0.2"),
    "hold-out": (["dataset.hold_out=0.3"], "dataset.hold_out=0.1, now 0.3"),
    "threads": (["hardware.threads=2"], "hardware.threads=1, now 2"),
    "precision": (["hardware.precision=bf16-mixed"], "hardware.precision=32-true, now bf16-mixed"),
    "several": (["seed=1", "model.noise=0.2", "model.width=5"], "model.width=4, now 5"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_configuration_under_the_same_name_is_refused(named, case):
    folder, words, here = named
    more, told = OTHERS[case]
    before = metrics(folder)
    run = here("train", *words, *more, check=2)
    assert told in run.told
    assert "run.name=OTHER" in run.told
    assert "force=true" in run.told
    assert metrics(folder) == before
    assert record(folder)["seed"] == 0


def test_what_asks_for_more_output_gets_it_from_the_finished_detector(named):
    folder, words, here = named
    shutil.rmtree(folder / "images")
    before = (folder / "metrics.json").stat().st_mtime_ns
    run = here("train", *words, "images.save=all", check=0)
    assert "finished before" in run.err
    assert len(list((folder / "images").glob("*.png"))) == 6
    assert (folder / "metrics.json").stat().st_mtime_ns == before


def test_pictures_that_changed_are_named(here, tmp_path):
    data = tiny_data(tmp_path / "data")
    words = toy(data, "run.name=x", "dataset.category=nut", "train.epochs=1")
    here("train", *words, check=0)
    shutil.copy(data / "nut/train/good/000.png", data / "nut/train/good/999.png")
    assert "train: 1 file added: nut/train/good/999.png" in here("train", *words, check=2).told
    here("train", *words, "force=true", check=0)
    (data / "nut/train/good/999.png").unlink()
    assert "1 file removed" in here("train", *words, check=2).told


def test_pictures_that_moved_as_a_whole_are_the_same(here, tmp_path):
    data = tiny_data(tmp_path / "data")
    words = ["run.name=x", "dataset.category=nut", "train.epochs=1"]
    here("train", *toy(data, *words), check=0)
    moved = data.rename(tmp_path / "elsewhere")
    assert "finished before" in here("train", *toy(moved, *words), check=0).err


def test_other_code_and_other_versions_are_named(named, monkeypatch):
    _, words, here = named
    monkeypatch.setattr(identity, "code_digest", lambda: "0" * 16)
    assert "other code of adbench" in here("train", *words, check=2).told
    installed = identity.versions()
    monkeypatch.setattr(identity, "versions", lambda: {**installed, "torch": "1.0"})
    assert "torch 2" in here("train", *words, check=2).told


def test_force_repeats_under_the_new_configuration(named):
    folder, words, here = named
    here("train", *words, "seed=1", "force=true", check=0)
    assert record(folder)["seed"] == 1
    assert "finished before" in here("train", *words, "seed=1", check=0).err


def test_an_interrupted_run_does_not_go_on_as_another(data, tmp_path):
    words = toy(data, "run.name=x", "dataset.category=nut")
    assert process("train", *words, cwd=tmp_path, TOY_DIES_AT="5").returncode == -9
    refused = process("train", *words, "seed=1", cwd=tmp_path, check=2)
    assert "seed=0, now 1" in refused.stderr
    resumed = process("train", *words, cwd=tmp_path, check=0)
    assert "resuming from" in resumed.stderr


def test_a_swept_run_name_gives_every_cell_a_folder_of_its_own(data, tmp_path):
    words = toy(data, "dataset.category=nut", "train.epochs=1", "run.name=x", "seed=1,2")
    run = process("sweep", *words, "sweep.name=s", cwd=tmp_path, check=0)
    cells = json.loads((tmp_path / "outputs/sweeps/s/sweep.json").read_text())["cells"]
    assert sorted(record(tmp_path / cell["folder"])["seed"] for cell in cells) == [1, 2]
    assert run.stdout.count("finished") >= 2


def test_output_that_nobody_reads_stops_nothing(data, tmp_path):
    import subprocess
    import sys

    from tests.e2e.verbs import environment

    words = toy(data, "run.name=x", "dataset.category=nut")
    command = " ".join(map(repr, [sys.executable, "-m", "adbench", "train", *words]))
    script = f"set -o pipefail; {command} 2>&1 | head -n 1"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment(), text=True)
    assert done.returncode == 0
    folder = tmp_path / "outputs/toy/mvtec/nut/x"
    assert record(folder)["status"] == "finished"
    assert metrics(folder)["image"]["auroc"] == 1.0


def test_a_stage_runs_anew_when_its_pictures_are_others(tmp_path):
    from adbench.runs.stages import Stage, stage_hash

    stage = Stage("s", print, config={"a": 1})
    assert stage_hash(stage, {}, {"data": 1}) != stage_hash(stage, {}, {"data": 2})


def test_finished_runs_with_a_forced_stage_run_it_again(here, data):
    words = toy(data, "run.name=x", "dataset.category=nut", model="toy_staged")
    folder = here("train", *words, check=0).path
    before = metrics(folder)
    again = here("train", *words, "force=count", check=0)
    assert "stage count: running" in again.err
    assert metrics(folder) == before
    assert "no stage '2x'" in here("train", *words, "force=2x", check=2).told
    assert record(folder)["status"] == "failed"
