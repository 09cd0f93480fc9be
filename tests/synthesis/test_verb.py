"""`adbench synthesize`: what is refused, who writes, pools out of runs of SDAS."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from adbench.cli.main import main
from adbench.methods.base import save_detector
from adbench.methods.sdas.detector import SdasDetector
from adbench.runs.folder import locked

TINY = {"width": 32, "multipliers": [1, 1], "blocks": 1, "attention": [], "head": 32}
# a method without a backbone, so that nothing heavy is looked for
SET = ["model=sdas", "synthesis=cutpaste", "dataset=demo", "dataset.category=metal"]


@pytest.fixture
def sdas_run(tmp_path):
    """The folder of a run of SDAS, untrained."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_config(folder, {"name": "sdas", "_target_": "adbench.methods.sdas.module.SdasModule"})
    model = {"network": TINY, "classes": ["a"], "size": [16, 16]}
    save_detector(SdasDetector(model, image_size=[32, 32]), folder)
    return folder


def write_config(folder, model):
    others = ("dataset", "train", "hardware", "metrics", "run")
    config = {"model": model, **{name: {} for name in others}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def told(capsys, *words, code=2):
    assert main(["synthesize", *words]) == code
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["n=0"], "n=0: a whole number in [1, 1e+06]"),
        (["n=many"], "n=many: a whole number"),
        (["n=1,2"], "write n=VALUE, one value"),
        (["~n"], "keys are not removed"),
        (["batch_size=-1"], "batch_size=-1"),
        (["split=val"], "split=val: choose one of train, held_out"),
        (["run=[a]"], "[a] is not a run folder"),
        (["run="], "run= is empty"),
        (["out="], "out= is empty"),
        (["run=x", "split=held_out"], "split= does not go with run="),
        (["run=x", "synthesis.steps=1"], "synthesis.steps=1: a whole number in [2, 1000]"),
        (["run=x", "synthesis.strength=[0.2,0.1]"], "synthesis.strength=[0.2,0.1]: low exceeds"),
        (["run=x", "synthesis.strenght=1"], "did you mean 'synthesis.strength'"),
        (["run=x", "synthesis=las"], "'synthesis=las' does not go with run="),
        (["run=x", "seed=-1"], "seed=-1"),
        (["run=x", "seed=1,2"], "one value"),
        ([*SET, "synthesis.area=[0.5,0.1]"], "synthesis.area=[0.5,0.1]: low exceeds high"),
        ([*SET, "synthesis=none"], "synthesis=none makes nothing"),
        ([*SET, "synthesis.name=../x"], "synthesis.name=../x cannot name a folder"),
    ],
)
def test_refusals_name_the_key(words, message, capsys):
    assert message in told(capsys, *words)


def test_a_refusal_comes_without_torch():
    words = ["synthesize", "run=absent", "synthesis.form=euler"]
    code = (
        f"import sys; from adbench.cli.main import main; code = main({words!r});"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 2


def test_a_folder_named_by_digits_and_a_second_writer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["dataset.image_size=64", "dataset.limit=4", "n=2", "out=0012"]
    with locked(tmp_path / "0012"):
        assert "another process" in told(capsys, *SET, *small)
    assert main(["synthesize", *SET, *small, "split=held_out", "dataset.hold_out=0.5"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0012"
    assert json.loads((tmp_path / "0012/request.json").read_text())["split"] == "held_out"


def test_a_pool_out_of_a_run(sdas_run, capsys):
    words = [f"run={sdas_run}", "n=2", "synthesis.steps=2", "synthesis.strength=0.1", "seed=3"]
    with locked(sdas_run / "pool"):
        assert "another process" in told(capsys, *words)
    assert main(["synthesize", *words]) == 0
    assert len((sdas_run / "pool/manifest.jsonl").read_text().splitlines()) == 2
    (sdas_run / "pool/pool.json").write_bytes(b"\xff")
    assert "pool.json cannot be read" in told(capsys, *words)


def test_runs_that_cannot_draw_are_named(sdas_run, tmp_path, capsys):
    assert "not a run folder" in told(capsys, f"run={tmp_path / 'none'}")
    words = [f"run={sdas_run}", f"out={tmp_path / 'out'}"]
    (sdas_run / "detector.yaml").unlink()
    assert "holds no trained detector" in told(capsys, *words)
    for model in ({"_target_": "adbench.methods.glass.module.GlassModule"}, {}, 3, None):
        write_config(sdas_run, model)
        message = told(capsys, *words)
        assert "is no run of model=sdas" in message or "model is missing" in message
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_left_alone(sdas_run, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    for words in ([f"run={sdas_run}"], [*SET, "dataset.image_size=64", "dataset.limit=4"]):
        assert "not empty" in told(capsys, *words, f"out={tmp_path / 'mine'}")
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]
    assert "a folder is expected" in told(
        capsys,
        *SET,
        "dataset.image_size=64",
        "dataset.limit=4",
        f"out={tmp_path / 'mine/thesis.txt'}",
    )
