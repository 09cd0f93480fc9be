"""Every command of README and pages is understood; those that take seconds are run."""

from __future__ import annotations

import re
import shutil
import sys

import pytest

import adbench
from adbench.cli.main import VERBS
from adbench.config.compose import compose_config
from adbench.config.plain import plain_keys
from adbench.config.schema import settings
from adbench.config.targets import declare_plugins
from tests.deploy.conftest import trained  # noqa: F401  (fixture)
from tests.deploy.test_keys import VERBS as RECORDS
from tests.docs.commands import PAGES, commands, config_dir
from tests.e2e.test_told_commands import check
from tests.e2e.verbs import REPOSITORY, process, tiny_data

COMMANDS = commands()
EXAMPLE = REPOSITORY / "docs" / "example"
QUICK = {"info", "completion"}  # need nothing, change nothing


@pytest.fixture(autouse=True)
def example(monkeypatch):
    """The example's package can be imported, as from its own folder."""
    monkeypatch.syspath_prepend(str(EXAMPLE))


def one(words):
    """Return swept words with their first value."""
    return [w.partition(",")[0] if "," in w and "[" not in w else w for w in words]


def understood(command):
    """Compose a command, or read its keys; raise what it would raise before any work."""
    words, conf = config_dir(command.words)
    verb = command.verb
    if verb in RECORDS:
        kind, needed = RECORDS[verb]
        named = {word.partition("=")[0] for word in words}
        extra = [w for w in needed if w.partition("=")[0] not in named]
        if named & {"model", "check", "compare", "calibrate"}:
            extra = [w for w in extra if not w.startswith("run=")]
        plain_keys(kind, [*words, *extra], verb)
    elif conf is not None and verb in ("train", "synthesize"):
        declare_plugins(conf)
        own = [w for w in words if not w.startswith("n=")]
        settings(compose_config("train", own, conf))
    elif verb in ("train", "sweep") and words:
        check(command.page, verb, words)
    elif verb == "data" and words[:1] == ["check"]:
        settings(compose_config("train", [w for w in words[1:] if not w.startswith("all=")]))
    elif verb == "test":
        from adbench.cli.test import _given

        _given(words)


def test_every_command_is_understood():
    assert len(COMMANDS) > 50
    wrong = []
    for command in COMMANDS:
        assert command.verb in VERBS, str(command)
        try:
            understood(command)
        except Exception as error:  # all of them in one message
            wrong.append(f"{command}: {error}")
    assert not wrong, "\n".join(wrong)


def test_commands_that_only_tell_are_run(here):
    told = [c for c in COMMANDS if c.verb in QUICK or c.words[:1] == ("list",)]
    assert told
    for command in told:
        here(command.verb, *command.words, check=0)


TINY = {
    "dataset=demo": [
        *("dataset.options.train=8", "dataset.options.good=2", "dataset.options.defective=1"),
        *("dataset.image_size=64", "train.epochs=null", "train.steps=2"),
    ],
    "dataset=folder": ["dataset.image_size=64", "train.epochs=null", "train.steps=2"],
}
ONE_PASS = re.compile(r"quick$|patchcore|padim|subspace|reference")


def tiny(words):
    """Return further words that make a training take seconds; none for one of one pass."""
    named = [w for w in words if w.startswith(("experiment=", "model="))]
    more = next((keys for mark, keys in TINY.items() if mark in words), [])
    if any(ONE_PASS.search(w) for w in named):
        more = [w for w in more if not w.startswith("train.")]
    own = {w.partition("=")[0] for w in words} - {"dataset.options.train"}
    return [w for w in more if w.partition("=")[0] not in own]


RUN = ("train", "predict", "test", "report", "export", "data", "sweep", "benchmark", "reproduce")
REAL = [c for c in COMMANDS if c.verb in RUN]  # tests/deploy starts the services


@pytest.fixture(scope="module")
def place(trained, tmp_path_factory):  # noqa: F811
    """A folder with a run called RUN and pictures called parts, as the pages have them."""
    folder, _ = trained
    root = tmp_path_factory.mktemp("place")
    shutil.copytree(folder, root / "RUN")
    tree = tiny_data(root / "parts" / "tree", side=64)
    for name, source in (("good", "train/good"), ("bad", "test/spot"), ("worse", "test/spot")):
        shutil.copytree(tree / "nut" / source, root / "parts" / name)
    shutil.copytree(tree / "nut", root / "mvtec" / "bottle")
    masks = tree / "nut" / "ground_truth" / "spot"
    shutil.copytree(masks, root / "parts" / "masks")
    rows = [f"good/{path.name},train,0" for path in sorted((root / "parts/good").iterdir())]
    rows += [f"bad/{path.name},test,1" for path in sorted((root / "parts/bad").iterdir())]
    (root / "parts" / "parts.csv").write_text("\n".join(["image,split,label", *rows]) + "\n")
    return root


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", REAL, ids=str)
def test_commands_run_with_a_tiny_budget(command, place):
    """Those of the pages that end by themselves; 1 is an answer, 2 and 70 are faults of a page."""
    words = list(command.words)
    if any(w.startswith(("watch=", "source=0", "dataset.root=/data")) for w in words):
        pytest.skip("needs a camera, a line or a data set")
    if "--config-dir" in words:
        words[words.index("--config-dir") + 1] = str(EXAMPLE / "conf")
    more = tiny(words) if command.verb in ("train", "sweep") else []
    if command.verb == "sweep":  # two values of a key are enough
        words = [w if "[" in w else ",".join(w.split(",")[:2]) for w in words]
        words = [re.sub(r"(trials)=\d+", r"\1=2", w) for w in words]
    if command.verb == "reproduce":  # planned only: tests/reports runs one
        words = ["dataset.root=mvtec" if w == "dataset.root=RUN" else w for w in words]
        named = {w.partition("=")[0] for w in words}
        more = [w for w in ("plan=true",) if w.partition("=")[0] not in named]
    weights = {"HF_HUB_OFFLINE": "1", "ADBENCH_CACHE": str(place / "cache")}
    path = f"{REPOSITORY}:{EXAMPLE}"
    done = process(command.verb, *words, *more, cwd=place, timeout=800, PYTHONPATH=path, **weights)
    told = done.stderr.strip().splitlines()[-1:]
    assert done.returncode in (0, 1), f"{command}: {done.returncode} {told}"


def test_the_python_of_the_page_runs(tmp_path, monkeypatch, capsys):
    """docs/python.md, block after block, in one namespace."""
    monkeypatch.chdir(tmp_path)
    (page,) = [each for each in PAGES if each.name == "python.md"]
    names = {"adbench": adbench}
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        code = block
        if '"part.png"' in code:
            import numpy as np
            from PIL import Image

            Image.fromarray(np.full((80, 72, 3), 90, np.uint8)).save(tmp_path / "part.png")
        exec(code, names)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4
    assert said[1].endswith("torch.Size([1, 1, 80, 72])")
    assert said[3] == "0.75"
    assert sys.modules["adbench"] is adbench
