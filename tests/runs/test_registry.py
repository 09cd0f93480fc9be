"""What ``adbench runs`` finds, compares and removes."""

from __future__ import annotations

import json

import pytest
import yaml

from adbench.cli.main import main
from adbench.runs.folder import locked
from adbench.runs.registry import differences, read_run, run_folders, size_of, sorted_runs


def made(root, name, status="finished", auroc=None, steps=1):
    folder = root / "glass" / "demo" / "metal" / name
    folder.mkdir(parents=True)
    config = {"train": {"steps": steps}, "run": {"name": name}, "model": {"name": "glass"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    record = {"status": status, "protocol": "honest", "seconds": {"total": 90}}
    (folder / "run.json").write_text(json.dumps(record))
    if status == "finished":
        figures = {"image": {"auroc": auroc}, "pixel": {"auroc": None}}
        (folder / "metrics.json").write_text(json.dumps(figures))
    return folder


@pytest.fixture
def root(tmp_path):
    made(tmp_path, "a", auroc=0.75)
    made(tmp_path, "b", auroc=0.5, steps=2)
    made(tmp_path, "c", status="running")
    return tmp_path


def test_the_best_comes_first_and_what_has_no_figure_last(root):
    runs = [read_run(folder, root) for folder in run_folders(root)]
    assert [run.folder.name for run in sorted_runs(runs, "image_auroc")] == ["a", "b", "c"]
    assert [run.folder.name for run in sorted_runs(reversed(runs), "run")] == ["a", "b", "c"]
    assert runs[0].minutes == 1.5


def test_places_are_no_difference_and_missing_keys_are(root):
    one = {"train": {"steps": 1, "minutes": None}, "run": {"name": "x"}}
    other = {"train": {"steps": 2}, "run": {"name": "y"}, "seed": 0}
    assert differences(one, other) == {"train.steps": (1, 2), "seed": (None, 0)}


def test_disk_use_counts_links_as_links(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 1000)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "own").write_bytes(b"y" * 10)
    (tmp_path / "run" / "link").symlink_to(tmp_path / "file")
    assert size_of(tmp_path / "run") < 1000


def test_the_verb_lists_and_filters(root, capsys):
    assert main(["runs", f"run.root={root}", "status=finished", "sort=image_auroc"]) == 0
    told = capsys.readouterr().out
    assert told.index("metal/a") < told.index("metal/b")
    assert "metal/c" not in told
    assert main(["runs", f"run.root={root}", "sort=beauty"]) == 2


def test_two_runs_are_compared(root, capsys):
    folder = root / "glass" / "demo" / "metal"
    assert main(["runs", "compare", str(folder / "a"), str(folder / "b")]) == 0
    told = capsys.readouterr().out
    assert "train.steps" in told
    assert "-0.2500" in told
    assert "run.name" not in told


def test_clean_removes_what_is_unfinished_when_told_and_not_what_is_held(root, capsys):
    folder = root / "glass" / "demo" / "metal" / "c"
    assert main(["runs", "clean", f"run.root={root}"]) == 0
    assert folder.exists()
    with locked(folder):
        assert main(["runs", "clean", f"run.root={root}", "delete=true"]) == 1
        assert (folder / "run.json").exists()
    assert main(["runs", "clean", f"run.root={root}", "delete=true"]) == 0
    assert not folder.exists()
    assert (folder.parent / "a").exists()
    assert "1 removed" in capsys.readouterr().err


def test_a_linked_folder_is_no_run(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    made(elsewhere, "d", status="running")
    (root / "glass" / "demo" / "metal" / "d").symlink_to(elsewhere / "glass/demo/metal/d")
    assert main(["runs", "clean", f"run.root={root}", "delete=true"]) == 0
    assert (elsewhere / "glass/demo/metal/d/run.json").exists()
