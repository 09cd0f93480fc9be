"""Run folders that others, or crashes, have touched: nothing runs code, everything is named."""

from __future__ import annotations

import os
import pickle
import shutil

import pytest
import torch
import yaml

from adbench.errors import UserError
from adbench.methods.base import load_detector
from tests.e2e.verbs import metrics, process, record, tiny_data, toy


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return (os.system, (f"touch {self.target}",))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def original(data, tmp_path_factory):
    """A finished run and an interrupted one, made once; tests get copies."""
    cwd = tmp_path_factory.mktemp("original")
    words = toy(data, "dataset.category=nut")
    process("train", *words, "run.name=done", cwd=cwd, check=0)
    stopped = process("train", *words, "run.name=half", cwd=cwd, TOY_DIES_AT="8")
    assert stopped.returncode == -9
    return cwd / "outputs"


@pytest.fixture
def runs(original, here):
    """Copies of both runs in the current folder."""
    shutil.copytree(original, here.folder / "outputs")
    return here.folder / "outputs/toy/mvtec/nut"


FILES = ["run.json", "metrics.json", "config.yaml", "detector.yaml", "threshold.json"]
DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "binary": lambda content: bytes(range(256)) * 4,
    "a list": lambda content: b"[1, 2, 3]\n",
    "a number": lambda content: b"7\n",
    "another shape": lambda content: b'{"model": 3, "config": "x", "status": "finished"}\n',
    "deep": lambda content: b"[" * 100000,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, "detector.safetensors"])
def test_a_damaged_file_is_named_with_the_way_out(runs, here, data, name, damage):
    path = runs / "done" / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    words = toy(data, "dataset.category=nut", "run.name=done")
    for verb in (["test", f"run={runs / 'done'}"], ["train", *words], ["runs"]):
        run = here(*verb)
        assert run.code in (0, 1, 2), run.err
        if run.code == 2:
            assert name in run.err or "begun with" in run.err or "no run of this" in run.err
            assert "force=true" in run.err or "not a finished run" in run.err, run.err
    assert here("train", *words, "force=true").code == 0


@pytest.mark.parametrize("damage", [*DAMAGES, "folder", "pipe", "pickle"])
def test_a_checkpoint_that_cannot_be_read_costs_the_part_since_the_one_before(
    runs, here, data, damage
):
    last = runs / "half/checkpoints/last.ckpt"
    content = last.read_bytes()
    last.unlink()
    if damage == "folder":
        last.mkdir()
    elif damage == "pipe":
        os.mkfifo(last)
    elif damage == "pickle":
        torch.save({"state_dict": Bomb(here.folder / "ran")}, last)
    else:
        last.write_bytes(DAMAGES[damage](content))
    words = toy(data, "dataset.category=nut", "run.name=half")
    run = here("train", *words, check=0)
    assert "trying the one before it" in run.err
    assert "resuming from" in run.err
    assert not (here.folder / "ran").exists()
    found, reference = metrics(runs / "half"), metrics(runs / "done")
    assert found["pixel"]["auroc"] == pytest.approx(reference["pixel"]["auroc"], abs=1e-6)


def test_only_broken_checkpoints_are_an_error_that_names_the_way_out(runs, here, data):
    for name in ("last.ckpt", "before.ckpt"):
        (runs / "half/checkpoints" / name).write_bytes(pickle.dumps(Bomb(here.folder / "ran")))
    words = toy(data, "dataset.category=nut", "run.name=half")
    assert "force=true begins anew" in here("train", *words, check=2).told
    assert not (here.folder / "ran").exists()
    assert record(runs / "half")["status"] == "failed"


def test_a_checkpoint_of_other_names_is_no_checkpoint_of_this_model(runs, here, data):
    path = runs / "half/checkpoints/last.ckpt"
    state = torch.load(path, weights_only=True)
    state["state_dict"] = {f"other.{k}": v for k, v in state["state_dict"].items()}
    torch.save(state, path)
    words = toy(data, "dataset.category=nut", "run.name=half")
    assert "belongs to another model" in here("train", *words, check=2).told


TARGETS = [
    "os.system",
    "subprocess.Popen",
    "antigravity.fly",
    "innocent.Detector",
    "adbench.config.locate.conf_folder",
    "adbench.no.such.Thing",
    "builtins.eval",
    "not a name",
    7,
    None,
]


@pytest.mark.parametrize("target", TARGETS)
def test_a_detector_card_imports_nothing_that_nobody_declared(runs, here, target):
    (here.folder / "innocent.py").write_text("open('ran', 'w')\nclass Detector: pass\n")
    card = runs / "done/detector.yaml"
    document = yaml.safe_load(card.read_text())
    card.write_text(yaml.safe_dump({**document, "_target_": target}))
    run = here("test", f"run={runs / 'done'}", check=2)
    assert "detector.yaml" in run.told
    assert not (here.folder / "ran").exists()


def test_a_card_that_builds_objects_is_refused(runs, here):
    card = runs / "done/detector.yaml"
    card.write_text(f"_target_: !!python/object/apply:os.system ['touch {here.folder}/ran']\n")
    assert "detector.yaml cannot be read" in here("test", f"run={runs / 'done'}", check=2).told
    assert not (here.folder / "ran").exists()


@pytest.mark.parametrize("config", [{}, {"width": "x"}, {"width": -1}, {"weights": "/dev/zero"}])
def test_a_card_of_another_config_is_one_line(runs, config):
    card = runs / "done/detector.yaml"
    document = yaml.safe_load(card.read_text())
    card.write_text(yaml.safe_dump({**document, "config": config}))
    if config == {}:
        load_detector(runs / "done")  # the toy's own defaults
        return
    with pytest.raises(UserError, match=r"damaged detector"):
        load_detector(runs / "done")


@pytest.mark.parametrize("name", ["tests", "images", "checkpoints"])
def test_links_that_lead_out_of_a_run_folder_are_refused(runs, here, data, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = runs / "done"
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).symlink_to(outside)
    here("test", f"run={folder}")
    here("train", *toy(data, "dataset.category=nut", "run.name=done"), "images.save=all")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["log.txt", ".lock", "metrics.json"])
def test_files_are_never_written_through_a_link(runs, here, data, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (runs / "half" / name).unlink(missing_ok=True)
    (runs / "half" / name).symlink_to(victim)
    here("train", *toy(data, "dataset.category=nut", "run.name=half"))
    assert victim.read_text() == "mine"


NAMES = ["../up", "/elsewhere", "a/b", "..", ".", "", "a\nb", "a\x1b[31mb", "x" * 300]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["run.name", "dataset.name", "model.name"])
def test_names_stay_below_the_root(here, data, key, name):
    words = toy(data, "dataset.category=nut", "train.epochs=1")
    run = here("train", *words, f"{key}={name}")
    if run.code == 0:  # an empty text is no name: the default holds
        assert (key, name) == ("run.name", "")
        return
    assert run.code == 2
    assert "\x1b" not in run.err
    assert not list(here.folder.rglob("run.json"))


def test_the_current_folder_is_not_on_a_cells_path(here, data):
    (here.folder / "random.py").write_text("open('ran', 'w')\nraise SystemExit(3)\n")
    (here.folder / "cv2.py").write_text("open('ran', 'w')\nraise SystemExit(3)\n")
    words = toy(data, "dataset.category=nut", "train.epochs=1", "seed=1,2")
    here("sweep", *words, "sweep.name=s", check=0)
    assert not (here.folder / "ran").exists()
    assert "cannot name a folder" in here("sweep", *words, "sweep.name=/elsewhere", check=2).told


def test_what_killed_processes_left_is_removed(runs, here, data):
    folder = runs / "half"
    (folder / ".run.json.4711.tmp.json").write_text("{")
    (folder / "checkpoints/.last.ckpt.4711.tmp").write_text("x")
    (folder / ".count.4711.tmp").mkdir()
    here("train", *toy(data, "dataset.category=nut", "run.name=half"), check=0)
    assert [path for path in folder.rglob(".*") if ".tmp" in path.name] == []


def test_detector_files_have_the_usual_permissions(runs):
    mask = os.umask(0)
    os.umask(mask)
    for name in ("detector.safetensors", "detector.yaml", "metrics.json"):
        assert (runs / "done" / name).stat().st_mode & 0o777 == 0o666 & ~mask, name
