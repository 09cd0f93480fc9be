"""What a sweep keeps: in linear time, by the configuration it began with, and in plain words."""

from __future__ import annotations

import json
import shutil

import pytest

from adbench.config.compose import compose_config
from adbench.config.hydra_words import refuse_hydras_own
from adbench.config.locate import conf_folder
from adbench.errors import UserError
from adbench.reports.searches import shown_searches
from adbench.sweeps import table as tables
from adbench.sweeps.claims import Claims
from adbench.sweeps.engine import Engine
from adbench.sweeps.fixed import FixedConf
from adbench.sweeps.grid import grid
from adbench.sweeps.progress import Progress
from adbench.sweeps.table import SweepTable
from benchmarks.sweeps import Empty


class Counted(SweepTable):
    """Counts what grows with the cells: files read, rows written."""

    reads = rows = 0

    def _read(self, cell, path):
        Counted.reads += 1
        return SweepTable._read(cell, path)

    def write(self):
        Counted.rows += len(self.cells)
        super().write()


def work(folder, cells, monkeypatch):
    """Return what a sweep of empty cells read and wrote."""
    monkeypatch.setattr(tables, "_IDLE", 1e9)  # the tables: as often as is due whatever the clock
    Counted.reads = Counted.rows = 0
    table = Counted(folder / "sweeps/s", grid([], {"seed": [str(n) for n in range(cells)]}))
    told = Progress(table, lambda line: None, live=False, retry_failed=True)
    Engine(Empty(folder), Claims(table.folder / "cells")).run(table.cells, told)
    table.write()
    rows = json.loads((table.folder / "sweep.json").read_text())["cells"]
    assert len(rows) == cells
    assert {row["status"] for row in rows} == {"finished"}
    return Counted.reads, Counted.rows


def test_a_sweeps_work_grows_with_its_cells_not_with_their_square(tmp_path, monkeypatch):
    few, many = (work(tmp_path / str(n), n, monkeypatch) for n in (50, 200))
    for small, large in zip(few, many, strict=True):
        assert large <= 4.5 * small


def test_tables_take_a_small_share_of_the_time(tmp_path):
    table = SweepTable(tmp_path, grid([], {"seed": ["1", "2"]}))
    table.write()
    table._changed = True
    before = (tmp_path / "sweep.csv").stat().st_mtime_ns
    table._next_write += 60
    table.write_in_time()
    assert (tmp_path / "sweep.csv").stat().st_mtime_ns == before
    table._next_write = 0
    table.write_in_time()
    assert (tmp_path / "sweep.csv").stat().st_mtime_ns > before


def test_a_sweep_keeps_the_configuration_it_began_with(tmp_path, monkeypatch):
    conf = shutil.copytree(conf_folder(), tmp_path / "conf")
    monkeypatch.setenv("ADBENCH_CONF", str(conf))
    begun = FixedConf(tmp_path / "s", None)
    assert not begun.changed
    path = conf / "hardware/cpu.yaml"
    path.write_text(path.read_text() + "threads: 7\n")
    again = FixedConf(tmp_path / "s", None)
    assert again.changed == ["hardware/cpu.yaml"]
    assert "another sweep.name= takes today's" in again.told()
    words = ["model=glass", "dataset=demo", "hardware=cpu"]
    assert compose_config("train", words)["hardware"]["threads"] == 7
    with again.in_force():
        assert compose_config("train", words)["hardware"]["threads"] != 7


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("hydra/launcher=joblib", "launcher=joblib"),
        ("hydra/launcher=submitit_slurm", "launcher=submitit"),
        ("hydra/sweeper=optuna", "adbench sweep sweep=optuna"),
        ("hydra.sweeper.n_trials=20", "sweep.search.trials=20"),
        ("hydra.launcher.n_jobs=4", "sweep.jobs=4"),
        ("hydra.launcher.partition=gpu", "launcher.slurm={partition:gpu}"),
        ("+hydra.launcher.ray.init.address=auto", "launcher.address=auto"),
        ("hydra.sweep.dir=x", "run.root=x"),
        ("hydra/launcher=rq", "local|joblib|submitit|ray"),
        ("hydra.unheard=1", "see --help"),
    ],
)
def test_hydras_own_words_are_answered_with_ours(word, instead):
    with pytest.raises(UserError) as refused:
        refuse_hydras_own(["seed=1", word])
    assert instead in str(refused.value)


def test_a_report_shows_a_searchs_history_and_what_mattered(tmp_path):
    trials = [
        {"number": n, "params": {"model.<x>": n}, "state": "complete", "values": [0.5 + n / 10]}
        for n in range(4)
    ]
    trials.append({"number": 4, "params": {}, "state": "pruned", "values": []})
    document = {"objectives": ["validation"], "importance": {"model.<x>": 0.8}, "trials": trials}
    folder = tmp_path / "sweeps/s"
    folder.mkdir(parents=True)
    (folder / "search.json").write_text(json.dumps(document))
    (shown,) = shown_searches(tmp_path)
    assert shown.counts == {"complete": 4, "pruned": 1}
    assert shown.best[:2] == (3, "0.8000")
    assert "best so far" in shown.history
    assert "model.&lt;x&gt;" in shown.importance
    assert shown.front is None
    (folder / "search.json").write_text('{"objectives": 3}')
    assert shown_searches(tmp_path) == []
