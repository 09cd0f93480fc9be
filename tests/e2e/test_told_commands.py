"""What help, README and messages tell a person to type, typed."""

from __future__ import annotations

import re
import shlex

import pytest

from adbench.cli.main import VERBS, usage
from adbench.config.compose import compose_config
from adbench.config.locate import options
from adbench.config.schema import settings
from adbench.data.layouts import get_layout
from tests.e2e.verbs import REPOSITORY, process

PAGES = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("adbench/**/*.md"))]
PRESETS = options("experiment")
# What a person fills in; a command that holds one is no command yet.
BLANKS = re.compile(r"\b[A-Z][A-Z_]{2,}\b|\.\.\.|\bFILE\b|N\b")


def commands(text):
    """Return the adbench commands of a text: code blocks and code in line."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(adbench [^`]+)`", text.replace("\n", " "))
    found = [line.split("  #")[0].strip() for line in lines if line.strip().startswith("adbench ")]
    return [line for line in dict.fromkeys(found) if not BLANKS.search(line)]


def test_every_complete_command_of_the_pages_is_understood():
    known = set()
    for page in PAGES:
        for line in commands(page.read_text()):
            _, verb, *words = shlex.split(line)
            assert verb in VERBS, (page, line)
            known.add(verb)
            if verb in ("train", "sweep") and words:
                check(page, verb, words)
    assert "train" in known


def check(page, verb, words):
    words = [word for word in words if not word.startswith(("sweep.", "launcher"))]
    rows = [word for word in words if word.startswith("sweep=")]
    if rows:
        section = compose_config("sweep", rows)["sweep"]
        extra = next(iter((section["rows"] or {"": []}).values()))
    else:
        extra = []
    one = [first(word) for word in words if word not in rows]
    try:
        found = settings(compose_config("train", [*one, *extra]))
        get_layout(found.dataset.layout, **found.dataset.options)
    except Exception as error:
        raise AssertionError(f"{page}: adbench {verb} {' '.join(words)}: {error}") from error


def first(word):
    """Return a swept word with its first value alone."""
    return word.partition(",")[0] if "," in word and "[" not in word else word


def test_the_first_run_that_help_names_works_offline_as_typed(tmp_path):
    (line,) = re.findall(r"adbench (train [^ ]+)  ", usage())
    assert line == "train experiment=quickstart"
    small = ["train.steps=2", "dataset.options.train=12", "dataset.options.good=2"]
    more = ["dataset.options.defective=1", "dataset.category=weave", "dataset.image_size=64"]
    cache = {"ADBENCH_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    process(*line.split(), *small, *more, cwd=tmp_path, check=0, **cache)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_first_run_at_its_own_length(tmp_path):
    """One of its three categories: all of them take as long as a third of the other tests."""
    words = ["train", "experiment=quickstart", "dataset.category=weave"]
    run = process(*words, cwd=tmp_path, check=0, timeout=1100)
    assert "weave" in run.stdout
    assert " of training: " in run.stderr


@pytest.mark.parametrize("model", [m for m in options("model") if f"{m}_cpu" in PRESETS])
def test_the_preset_that_a_message_names_needs_nothing_that_is_not_here(model, tmp_path):
    found = compose_config("train", [f"experiment={model}_cpu", "backbone=bundled"])
    assert found["backbone"]["name"] == "bundled"
    assert settings(found).hardware.accelerator == "cpu"


def test_weights_that_cannot_be_had_are_answered_with_what_runs_here(tmp_path):
    nowhere = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    words = ["train", "model=glass", "dataset=demo", "dataset.category=weave"]
    cache = {"ADBENCH_CACHE": str(tmp_path / "cache")}
    refused = process(*words, cwd=tmp_path, check=2, **nowhere, **cache)
    told = refused.stderr.strip().splitlines()[-1]
    named = re.search(r"experiment=(\w+) backbone=bundled", told)
    assert named, told
    assert named[1] in PRESETS
