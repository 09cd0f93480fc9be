"""Launchers: whoever starts the cells, each runs once, killed ones again, and the table is one."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from pathlib import Path

import pytest

from adbench.config.schema import LauncherKeys
from adbench.errors import UserError
from adbench.sweeps.attempt import Attempt, Ended
from adbench.sweeps.claims import Claims
from adbench.sweeps.engine import Engine
from adbench.sweeps.grid import grid
from adbench.sweeps.launchers import build_launcher
from adbench.sweeps.local import Slots
from adbench.sweeps.progress import Progress
from adbench.sweeps.table import SweepTable

STUB = str(Path(__file__).parent / "stub")


class Told(Progress):
    """Keeps what is said; may stop a cell."""

    def __init__(self, table):
        self.lines = []
        super().__init__(table, self.lines.append, live=False, retry_failed=True)
        self.given_up = ()

    def hopeless(self, cell):
        return "hopeless" if cell.values["seed"] in self.given_up else None


def sweep(folder, keys, *fixed, seeds=4, jobs=2, timeout=None, given_up=()):
    """Run stub cells below ``folder``; return the table and what was said."""
    cells = grid(list(fixed), {"seed": [str(n) for n in range(seeds)]})
    table = SweepTable(folder / "outputs/sweeps/s", cells)
    told = Told(table)
    told.given_up = given_up
    launcher = build_launcher(
        keys,
        table.folder,
        folder / "outputs",
        jobs=jobs,
        environ={"PYTHONPATH": STUB},
    )
    claims = Claims(table.folder / "cells", remote=launcher.remote)
    Engine(launcher, claims, timeout=timeout, retries=keys.retries).run(cells, told)
    table.write()
    return table, told.lines


def states(table):
    return [entry["status"] for entry in table.entries]


def taken(folder):
    """How often each seed's process was started."""
    files = sorted(folder.glob("outputs/toy/set/nut/*/taken"))
    return [len(path.read_text().splitlines()) for path in files]


@pytest.fixture(
    params=[
        "local",
        pytest.param("joblib", marks=pytest.mark.long),
        pytest.param("submitit", marks=pytest.mark.long),
    ]
)
def keys(request):
    if request.param == "submitit":
        pytest.importorskip("submitit")
        return LauncherKeys(name="submitit", executor="local")
    return LauncherKeys(name=request.param)


def test_every_cell_runs_once_and_a_killed_one_again(keys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table, lines = sweep(tmp_path, keys, f"stub.once={tmp_path / 'once'}")
    assert states(table) == ["finished"] * 4
    assert sum(taken(tmp_path)) == 5
    assert [entry["metrics"]["image_auroc"] for entry in table.entries] == [
        0.5,
        0.501,
        0.502,
        0.503,
    ]
    assert sum("it is started again" in line for line in lines) == 1
    assert (table.folder / "sweep.csv").read_text().count("finished") == 4


def test_a_hopeless_cell_is_stopped_and_the_rest_go_on(keys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seconds = "stub.seconds=3" if keys.name == "submitit" else "stub.seconds=2"
    table, _ = sweep(tmp_path, keys, seconds, seeds=2, given_up=("0",))
    assert states(table) == ["pruned", "finished"]


def test_what_fails_says_why_and_is_not_repeated(keys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table, _ = sweep(tmp_path, keys, "stub.crash=1", seeds=1)
    assert [entry["reason"] for entry in table.entries] == ["no such thing"]
    assert taken(tmp_path) == [1]


@pytest.mark.long
def test_a_killed_worker_of_joblib_costs_no_cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def kill():
        from joblib.externals.loky import get_reusable_executor

        end = time.monotonic() + 60
        while time.monotonic() < end:
            if list(tmp_path.glob("outputs/toy/set/nut/*/taken")):
                workers = get_reusable_executor(max_workers=2, timeout=300)._processes
                os.kill(next(iter(workers)), signal.SIGKILL)
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    table, lines = sweep(tmp_path, LauncherKeys(name="joblib"), "stub.seconds=1", seeds=3)
    killer.join()
    assert states(table) == ["finished"] * 3
    assert any("a worker of joblib was lost" in line for line in lines)


@pytest.mark.long
def test_a_job_out_of_time_is_queued_again_and_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    from submitit.core.utils import DelayedSubmission

    attempt = Attempt(("seed=1", "stub.seconds=60"), str(tmp_path / "log"), str(tmp_path))
    attempt.environ = {"PYTHONPATH": STUB}
    attempt._process = attempt.start()
    again = attempt.checkpoint()
    assert isinstance(again, DelayedSubmission)
    assert again.function is attempt
    assert attempt._process is None
    # what the local executor answers with, where SLURM would queue again
    from submitit.local.local import LocalExecutor

    submit = LocalExecutor._submit_command
    monkeypatch.setattr(
        LocalExecutor,
        "_submit_command",
        lambda own, command: own.parameters.update(timeout_min=0.1) or submit(own, command),
    )
    keys = LauncherKeys(name="submitit", executor="local", notice=1, retries=1)
    table, lines = sweep(tmp_path, keys, "stub.seconds=30", seeds=1)
    assert states(table) == ["failed"]
    assert any("it is started again" in line for line in lines)


FAKE = {  # what a login node has; jobs are written down and never run
    "srun": "exit 0",
    "sbatch": 'cp "$1" "$SLURM_KEPT/submitted.sh"; echo "Submitted batch job 4711"',
    "sacct": 'echo "JobID|State|NodeList"; for n in 0 1 2; do echo "4711_$n|CANCELLED|n1"; done',
    "scancel": "exit 0",
}


@pytest.mark.long
def test_slurm_gets_one_array_a_turn(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    for name, body in FAKE.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_KEPT", str(tmp_path))
    keys = LauncherKeys(
        name="submitit", executor="slurm", cpus=4, gpus=1, memory_gb=16, minutes=90, parallel=8,
        slurm={"partition": "gpu"},
    )  # fmt: skip
    launcher = build_launcher(keys, tmp_path / "s", tmp_path, jobs=None)
    cells = grid([], {"seed": ["1", "2", "3"]})
    claims = Claims(tmp_path / "s" / "cells", remote=True)
    assert all(claims.take(cell) for cell in cells)
    jobs = launcher.start(cells, claims)
    text = (tmp_path / "submitted.sh").read_text()
    for line in (
        "--array=0-2%3",
        "--partition=gpu",
        "--mem=16GB",
        "--time=90",
        "--gpus-per-node=1",
    ):
        assert f"#SBATCH {line}" in text
    assert "USR2@90" in text
    from adbench.sweeps.slurm import sbatch_text

    assert "#SBATCH --array=0-19%8" in sbatch_text(tmp_path / "t", keys, 20)
    jobs[0].job.watcher.update()
    found = jobs[0].poll()  # cancelled from outside: no result
    assert found is not None
    assert found.status == "lost"


def test_what_slurm_does_not_know_is_told_before_a_cell(tmp_path):
    pytest.importorskip("submitit")
    from adbench.sweeps.slurm import sbatch_text

    with pytest.raises(UserError, match="partitoin"):
        sbatch_text(tmp_path, LauncherKeys(name="submitit", slurm={"partitoin": "gpu"}), 2)


def test_a_run_folder_that_was_sent_lands_where_it_belongs(tmp_path):
    from adbench.sweeps.cluster import _packed, on_node, unpacked

    elsewhere = Attempt(("seed=7",), str(tmp_path / "log"), str(tmp_path), {"PYTHONPATH": STUB})
    found = on_node(elsewhere, (str(tmp_path / "not.there"), "token"), None, None)
    assert (found.status, found.folder) == ("finished", "toy/set/nut/seed7")
    again = unpacked(found, tmp_path / "outputs")
    assert Path(again.folder) == tmp_path / "outputs/toy/set/nut/seed7"
    assert (Path(again.folder) / "metrics.json").is_file()
    outside = Ended("finished", "../../x", archive=_packed(Path(again.folder), Path(again.folder)))
    assert unpacked(outside, tmp_path / "outputs").status == "failed"
    assert not (tmp_path.parent / "x").exists()


def test_gpus_are_taken_in_turn():
    slots = Slots([3, 5])
    cells = grid([], {"seed": ["1", "2", "3"]})
    given = [slots.environ(cell)["CUDA_VISIBLE_DEVICES"] for cell in cells[:2]]
    slots.free(cells[0])
    assert [*given, slots.environ(cells[2])["CUDA_VISIBLE_DEVICES"]] == ["3", "5", "3"]


# Who holds a cell


def test_one_of_two_machines_takes_a_cell_where_neither_sees_the_others_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("adbench.sweeps.claims.try_lock", lambda descriptor: True)
    one, other = (Claims(tmp_path, host=name, lease=5.0) for name in "ab")
    cells = grid([], {"seed": [str(n) for n in range(50)]})
    first = [one.take(cell) for cell in cells[::2]]
    second = [other.take(cell) for cell in cells]
    assert all(first)
    assert second == [number % 2 == 1 for number in range(50)]
    one.release(cells[0])
    assert other.take(cells[0])


def test_a_silent_machines_cell_becomes_free(tmp_path, monkeypatch):
    monkeypatch.setattr("adbench.sweeps.claims.try_lock", lambda descriptor: True)
    (cell,) = grid([], {"seed": ["1"]})
    one, other = (Claims(tmp_path, host=name, lease=60.0) for name in "ab")
    assert one.take(cell)
    assert not other.take(cell)
    old = time.time() - 61
    os.utime(one.lease_of(cell), (old, old))
    assert not other.held(cell)
    assert other.take(cell)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_dead_controllers_remote_cell_is_left_to_its_worker(tmp_path):
    (cell,) = grid([], {"seed": ["1"]})
    dead = Claims(tmp_path, remote=True)
    assert dead.take(cell)
    dead._held[cell.id].handle.close()  # as a kill does
    after = Claims(tmp_path, remote=True)
    assert after.held(cell)  # its worker may be at it, and would give signs of life
    assert not after.take(cell)
    os.utime(after.lease_of(cell), (0, 0))
    assert after.take(cell)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_ray_runs_cells_as_tasks_and_a_killed_worker_costs_none(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)

    def kill():
        end = time.monotonic() + 200
        while time.monotonic() < end:
            for path in tmp_path.glob("outputs/toy/set/nut/*/taken"):
                cell = int(path.read_text().split()[0])
                parent = Path(f"/proc/{cell}/stat").read_text().rsplit(")", 1)[1].split()[1]
                os.kill(int(parent), signal.SIGKILL)
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    table, lines = sweep(tmp_path, LauncherKeys(name="ray"), "stub.seconds=2", seeds=3)
    killer.join()
    assert states(table) == ["finished"] * 3
    assert any("a worker of ray was lost" in line for line in lines)
    assert not list(tmp_path.rglob("shared.token"))


@pytest.mark.long  # ray looks for a minute, and closes what pytest listens to
def test_nobody_at_rays_address_is_told(tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(UserError, match="no ray cluster answers"):
        build_launcher(
            LauncherKeys(name="ray", address="127.0.0.1:1"), tmp_path, tmp_path, jobs=None
        )
