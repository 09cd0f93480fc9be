"""`adbench distill`: what is refused before anything is trained, who writes, what resumes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from adbench.backbones.distill import distill
from adbench.backbones.distill.recipe import DistillKeys, Recipe
from adbench.cli.main import main
from adbench.config.compose import compose_config
from adbench.config.typed import from_mapping
from adbench.errors import UserError
from adbench.runs.folder import locked
from tests.backbones.test_distill import TINY, silent

FORMULA = {"objective": "formula", "steps": 2, "classes": 2, **TINY}


def refused(capsys, *words):
    assert main(["distill", *words]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["teacher=/dev/zero"], "no regular file"),
        (["teacher=[a]"], "teacher=[a] does not exist"),
        (["teacher=absent"], "teacher=absent does not exist"),
        (["objective=formula", "start=absent"], "start=absent does not exist"),
        (["objective=formula", "lr=nan"], "lr=nan: a number in (0, 100]"),
        (["objective=formula", "steps=0"], "steps=0: a whole number"),
        (["objective=formula", "folders=3"], "folders=3: a list"),
        (["objective=formula", "bfloat16=maybe"], "bfloat16=maybe"),
        (["objective=formula", "threads=0"], "threads=0"),
        (["objective=formula", "device=tpu"], "device=tpu: choose one of"),
        (["objective=formula", "folder=null"], "folder=null: text"),
        (["objective=formula", "folder="], "folder= is empty"),
        (["objective=formula", "side=1024", "batch_size=4096"], "megapixels"),
    ],
)
def test_refusals_name_the_key(words, told, capsys):
    assert told in refused(capsys, *words)


def test_a_refusal_comes_without_torch():
    code = (
        "import sys; from adbench.cli.main import main;"
        "code = main(['distill', 'teacher=absent']);"
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=False)
    assert found.returncode == 2


def test_defaults_stand_in_the_yaml_as_in_the_records():
    config = compose_config("distill", [])
    own = {key: config.pop(key) for key in DistillKeys.__slots__}
    assert from_mapping(DistillKeys, own, "") == DistillKeys()
    recipe = from_mapping(Recipe, {**config, "objective": "formula"}, "")
    assert recipe == Recipe(objective="formula")


def test_a_second_training_is_refused_while_the_first_one_writes(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match=r"another process.*folder="):
        distill(FORMULA, tmp_path, say=silent)
    left = tmp_path / ".checkpoint.pt.4711.tmp.pt"
    left.write_bytes(b"half")
    distill(FORMULA, tmp_path, say=silent)
    assert not left.exists()


@pytest.mark.parametrize("spoilt", [b"", b"half", None])
def test_a_damaged_checkpoint_is_named_and_its_removal_helps(spoilt, tmp_path):
    distill(FORMULA, tmp_path, say=silent)
    path = tmp_path / "checkpoint.pt"
    if spoilt is None:
        torch.save({**torch.load(path, weights_only=True), "student": {}}, path)
    else:
        path.write_bytes(spoilt)
    with pytest.raises(UserError, match=r"checkpoint\.pt cannot be read.*remove it"):
        distill(FORMULA, tmp_path, say=silent)


def test_weights_that_no_training_wrote_are_not_overwritten(tmp_path):
    path = tmp_path / "bundled.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match="nothing is overwritten"):
        distill(FORMULA, tmp_path, say=silent)
    assert [item.name for item in tmp_path.iterdir()] == ["bundled.safetensors"]


def test_a_training_that_diverges_says_so(tmp_path):
    from adbench.backbones.distill.formula import FormulaPretraining

    training = FormulaPretraining(from_mapping(Recipe, FORMULA, ""), tmp_path)
    for value in training.average.values():
        value.fill_(torch.nan)
    with pytest.raises(UserError, match="diverged"):
        training._save()


def test_pipes_among_photographs_are_not_waited_for(tmp_path):
    import os

    from adbench.backbones.distill.photographs import loaded_photographs

    os.mkfifo(tmp_path / "photo.png")
    with pytest.raises(UserError, match=r"photo\.png cannot be read"):
        loaded_photographs([tmp_path], 64)
