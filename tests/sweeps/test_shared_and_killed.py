"""Sweeps that are killed, shared, changed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.e2e.verbs import environment, process, record, tiny_data, toy


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("data"), categories=("nut", "bolt"))


def started(words, cwd, interrupts=signal.SIG_DFL, **variables):
    """Start a controller; ``interrupts``: what it inherits to be done on SIGINT."""
    return subprocess.Popen(
        [sys.executable, "-m", "adbench", "sweep", *words],
        cwd=cwd,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a suite that a shell runs in the background ignores it, and would hand that on
        preexec_fn=lambda: signal.signal(signal.SIGINT, interrupts),
    )


def cells(folder):
    return json.loads((folder / "sweep.json").read_text())["cells"]


def wait_until(condition, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def running(root):
    """Ids of processes that train below ``root``."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                words = open(f"/proc/{entry.name}/cmdline", "rb").read().split(b"\0")  # noqa: SIM115
            except OSError:
                continue
            if b"train" in words and any(str(root).encode() in word for word in words):
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_controller_that_ends_takes_its_cells_along_and_goes_on(data, tmp_path, how):
    own = shutil.copytree(data, tmp_path / "own")  # its path finds the processes
    words = toy(own, "dataset.category=nut", "seed=1,2", "sweep.name=s", model="toy_staged")
    controller = started(words, tmp_path, TOY_STAGE_SECONDS="30")
    folder = tmp_path / "outputs/sweeps/s"
    wait_until(lambda: running(own) and list(tmp_path.glob("outputs/toy_staged/**/*.work")))
    os.kill(controller.pid, how)
    controller.communicate(timeout=60)
    wait_until(lambda: not running(own))
    again = process("sweep", *words, cwd=tmp_path, check=0)
    assert [cell["status"] for cell in cells(folder)] == ["finished", "finished"]
    assert "failed" not in again.stdout
    assert not [path for path in tmp_path.rglob(".*") if ".tmp" in path.name]


def test_a_controller_in_a_shells_background_stops_its_cells_at_once(data, tmp_path):
    own = shutil.copytree(data, tmp_path / "own")
    words = toy(own, "dataset.category=nut", "seed=1,2", "sweep.name=s", model="toy_staged")
    controller = started(words, tmp_path, interrupts=signal.SIG_IGN, TOY_STAGE_SECONDS="60")
    wait_until(lambda: running(own) and list(tmp_path.glob("outputs/toy_staged/**/*.work")))
    start = time.monotonic()
    controller.terminate()
    controller.communicate(timeout=60)
    assert time.monotonic() - start < 15  # a cell that does not hear is killed after 20 s
    assert not running(own)


def test_two_controllers_share_the_cells(data, tmp_path):
    words = toy(data, "dataset.category=nut", "seed=1,2,3", "sweep.name=s", "train.epochs=1")
    both = [started(words, tmp_path) for _ in range(2)]
    outputs = [each.communicate(timeout=200) for each in both]
    assert [each.returncode for each in both] == [0, 0], outputs
    folder = tmp_path / "outputs/sweeps/s"
    assert [cell["status"] for cell in cells(folder)] == ["finished"] * 3
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    assert [row["seed"] for row in rows] == ["1", "2", "3"]
    told = [line for out, err in outputs for line in err.splitlines() if "finished in" in line]
    assert len(told) == 3  # each was taken once


def test_another_grid_under_the_same_name_is_refused(data, here):
    words = toy(data, "dataset.category=nut", "train.epochs=1", "sweep.name=s")
    here("sweep", *words, "seed=1,2", check=0)
    refused = here("sweep", *words, "seed=1,3", check=2)
    assert "holds another grid" in refused.told
    assert "seed=2" in refused.told
    assert "another sweep.name" in refused.told


def test_a_finished_cell_whose_folder_is_gone_is_run_again(data, here):
    words = toy(data, "dataset.category=nut", "train.epochs=1", "sweep.name=s", "seed=1,2")
    folder = here("sweep", *words, check=0).path
    gone = here.folder / cells(folder)[0]["folder"]
    shutil.rmtree(gone)
    again = here("sweep", *words, check=0)
    assert "1 done before" in again.err
    assert record(gone)["status"] == "finished"


def test_a_cell_that_somebody_else_trains_is_waited_for(data, tmp_path):
    words = toy(data, "dataset.category=nut", model="toy_staged")
    other = subprocess.Popen(
        [sys.executable, "-m", "adbench", "train", *words, "seed=1"],
        cwd=tmp_path,
        env=environment(TOY_STAGE_SECONDS="8"),
    )
    wait_until(lambda: list(tmp_path.glob("outputs/toy_staged/**/*.work")))
    swept = process("sweep", *words, "seed=1,2", "sweep.name=s", cwd=tmp_path, check=0)
    assert other.wait(timeout=60) == 0
    assert "failed" not in swept.stdout


def test_a_failed_cell_says_why_and_is_tried_again_only_where_asked(data, here):
    words = toy(data, "dataset.category=nut,none", "train.epochs=1", "sweep.name=s", "seed=1,2")
    assert here("sweep", *words, check=1).out.count("no category 'none'") >= 2
    kept = here("sweep", *words, "sweep.retry_failed=false", check=1)
    assert "4 done before" in kept.err


@pytest.mark.parametrize(
    "word",
    ["sweep.jobs=0", "sweep.jobs=x", "sweep.timeout_minutes=0", "sweep.rows={a:5}", "sweep.row=1"],
)
def test_wrong_keys_are_told_before_the_first_cell(data, here, word):
    refused = here("sweep", *toy(data), "seed=1,2", word, check=2)
    assert word.split("=")[0] in refused.told or "did you mean" in refused.told
