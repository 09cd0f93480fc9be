"""Run folders, files and stages."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from adbench.errors import UserError
from adbench.runs.files import folder_beside, read_json, write_beside, write_json
from adbench.runs.folder import cell_hash, locked, open_run, run_path
from adbench.runs.stages import Stage, run_stages
from adbench.runs.summary import mean_metrics

CONFIG = {
    "run": {"root": "outputs", "name": None},
    "seed": 3,
    "model": {"name": "m", "width": 1},
    "dataset": {"name": "d"},
    "hardware": {"threads": 2},
}


def test_the_name_depends_on_what_changes_results_and_on_nothing_else():
    hardware = {"threads": 2, "workers": 4}
    same = {**CONFIG, "hardware": hardware, "run": {"root": "elsewhere", "name": "x"}}
    others = (
        {**CONFIG, "model": {"name": "m", "width": 2}},
        {**CONFIG, "hardware": {"threads": 7}},  # figures move with the number of threads
        {**CONFIG, "hardware": {"threads": 2, "precision": "bf16-mixed"}},
    )
    assert cell_hash(same) == cell_hash(CONFIG)
    assert all(cell_hash(other) != cell_hash(CONFIG) for other in others)
    assert run_path(CONFIG, "c").as_posix().startswith("outputs/m/d/c/seed3-")


def test_a_name_cannot_leave_the_root():
    with pytest.raises(UserError, match="cannot name a folder"):
        run_path({**CONFIG, "run": {"root": "outputs", "name": "../up"}}, "c")


def test_a_failed_write_leaves_the_former_content(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def interrupted():
        with write_beside(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_nan_is_not_written_as_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_failed_folder_leaves_the_former_one(tmp_path):
    target = tmp_path / "stage"
    with folder_beside(target) as temporary:
        (temporary / "x").write_text("1")
    with pytest.raises(RuntimeError), folder_beside(target) as temporary:
        raise RuntimeError
    assert (target / "x").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["stage"]


def test_two_processes_never_write_one_folder(tmp_path):
    code = (
        "from adbench.runs.folder import locked; from pathlib import Path\n"
        f"with locked(Path({str(tmp_path)!r})): print('got it')"
    )
    with locked(tmp_path):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process" in run.stderr
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "got it" in again.stdout


def test_a_folder_without_a_run_is_refused_with_a_near_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.yaml").write_text("a: 1")
    with pytest.raises(UserError, match=r"did you mean .*real"):
        open_run(tmp_path / "rael")


def stage(name, log, inputs=(), config=None):
    def run(context):
        log.append(name)
        (context.folder / "out.txt").write_text(name)

    return Stage(name, run, config or {}, tuple(inputs))


def test_finished_stages_are_kept_and_changed_ones_take_their_followers_along(tmp_path):
    log: list[str] = []
    both = [stage("a", log), stage("b", log, ["a"])]
    run_stages(both, tmp_path, None, say=lambda line: None)
    run_stages(both, tmp_path, None, say=lambda line: None)
    assert log == ["a", "b"]
    changed = [stage("a", log, config={"x": 1}), stage("b", log, ["a"])]
    run_stages(changed, tmp_path, None, say=lambda line: None)
    assert log == ["a", "b", "a", "b"]
    run_stages(changed, tmp_path, None, force="b", say=lambda line: None)
    assert log[4:] == ["b"]
    card = json.loads((tmp_path / "b" / "stage.json").read_text())
    assert card["inputs"] == ["a"]


def test_one_stage_alone_needs_its_inputs(tmp_path):
    log: list[str] = []
    both = [stage("a", log), stage("b", log, ["a"])]
    with pytest.raises(UserError, match="needs 'a'"):
        run_stages(both, tmp_path, None, only="b", say=lambda line: None)
    run_stages(both, tmp_path, None, until="a", say=lambda line: None)
    run_stages(both, tmp_path, None, only="b", say=lambda line: None)
    assert log == ["a", "b"]
    with pytest.raises(UserError, match="did you mean"):
        run_stages(both, tmp_path, None, only="bb", say=lambda line: None)


def test_means_leave_nulls_out_and_count_them():
    documents = [
        {"image": {"auroc": 1.0}, "pixel": {"auroc": 0.5}},
        {"image": {"auroc": None}, "pixel": {"auroc": 0.7}},
    ]
    mean = mean_metrics(documents)
    assert mean["image"]["auroc"] == 1.0
    assert mean["pixel"]["auroc"] == pytest.approx(0.6)
    assert mean["left_out"]["image.auroc"] == 1
