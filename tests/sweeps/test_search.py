"""Searches: what is asked for once is told once, whoever is killed; the test set stays unread."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from adbench.config.compose import compose_config
from adbench.config.schema import SearchKeys, SpaceKeys, settings
from adbench.errors import UserError
from adbench.sweeps.advisor import Advisor, default_setting
from adbench.sweeps.search import check_objectives, objective_values, read_curve
from adbench.sweeps.study import Study, Trial
from tests.e2e.verbs import TOY, environment, tiny_data, toy
from tests.sweeps.test_shared_and_killed import running, wait_until

SPACE = {
    "model.noise": SpaceKeys(low=0.01, high=0.5, log=True),
    "model.width": SpaceKeys(low=2, high=6, step=2, integer=True),
}


def keys(**more):
    return SearchKeys(spaces={"toy": SPACE}, **{"startup": 2, **more})


def complete(number, value, noise=0.1):
    return Trial(number, {"model.noise": noise, "model.width": 2}, "complete", (value,))


# What is remembered


def test_numbers_and_parameters_are_never_given_twice(tmp_path):
    study = Study(tmp_path, {"a": 1})
    drawn = iter(range(10))
    asked = [
        study.ask(3, lambda trials, number: {"x": next(drawn)}, lambda trial: True)
        for _ in range(5)
    ]
    assert [trial and trial.number for trial in asked] == [0, 1, 2, None, None]
    study.tell(1, "failed")
    study.tell(1, "complete", (0.5,))  # too late
    assert [trial.state for trial in study.trials()] == ["asked", "failed", "asked"]
    replaced = study.ask(3, lambda trials, number: {"x": next(drawn)}, lambda trial: True)
    assert replaced.number == 3


def test_a_trial_whose_process_died_is_asked_for_again(tmp_path):
    study = Study(tmp_path, {})
    first = study.ask(1, lambda trials, number: {"x": 1}, lambda trial: True)
    again = Study(tmp_path, {}).ask(1, lambda trials, number: {"x": 2}, lambda trial: False)
    assert (again.number, again.params) == (first.number, {"x": 1})
    assert Study(tmp_path, {}).trials()[0].attempts == 2


def test_a_search_whose_trials_all_fail_ends(tmp_path):
    study, asked = Study(tmp_path, {}), 0
    while trial := study.ask(50, lambda trials, number: {"x": number}, lambda trial: True):
        study.tell(trial.number, "failed")
        asked += 1
    assert asked == 4


def test_a_torn_line_costs_one_event(tmp_path):
    study = Study(tmp_path, {})
    study.ask(5, lambda trials, number: {"x": number}, lambda trial: True)
    study.tell(0, "complete", (1.0,), {1: 0.5})
    with open(tmp_path / "trials.jsonl", "a") as file:
        file.write('{"event": "asked", "numb')
    again = Study(tmp_path, {})
    assert [trial.values for trial in again.trials()] == [(1.0,)]
    assert again.trials()[0].curve == {1: 0.5}
    assert again.ask(5, lambda trials, number: {"x": number}, lambda trial: True).number == 1


@pytest.mark.parametrize("line", ["[]", "{}", '{"event": "told", "number": 7}', "\xff", "null"])
def test_a_damaged_memory_is_refused(tmp_path, line):
    study = Study(tmp_path, {})
    (tmp_path / "trials.jsonl").write_bytes(line.encode("latin-1") + b"\n")
    with pytest.raises(UserError, match="damaged"):
        study.trials()


def test_another_search_under_the_same_name_is_refused(tmp_path):
    Study(tmp_path, {"space": {"x": [1, 2]}})
    with pytest.raises(UserError, match="another search"):
        Study(tmp_path, {"space": {"x": [1, 3]}})


# What is advised


def test_advice_follows_from_the_trials_alone():
    trials = [complete(number, 0.1 * number, 0.02 * (number + 1)) for number in range(6)]
    first = Advisor(SPACE, keys()).draw(trials, 6)
    assert first == Advisor(SPACE, keys()).draw(trials, 6)
    assert first != Advisor(SPACE, keys(seed=1)).draw(trials, 6)
    assert 0.01 <= first["model.noise"] <= 0.5
    assert first["model.width"] in (2, 4, 6)


def test_the_first_trial_is_the_default_where_it_lies_in_the_space():
    config = {"model": {"noise": 0.2, "width": 4}}
    assert default_setting(SPACE, config) == {"model.noise": 0.2, "model.width": 4}
    for other in ({"noise": 0.9, "width": 4}, {"noise": 0.2, "width": 5}, {"noise": None}):
        assert default_setting(SPACE, {"model": other}) is None
    advisor = Advisor(SPACE, keys(), {"model.noise": 0.2, "model.width": 4})
    assert advisor.draw([], 0) == {"model.noise": 0.2, "model.width": 4}
    assert advisor.draw([complete(0, 0.5)], 1) != advisor.draw([], 0)


def test_an_exhausted_space_ends():
    small = {"model.width": SpaceKeys(choices=(2, 4))}
    tried = [Trial(n, {"model.width": 2 * n + 2}, "complete", (0.5,)) for n in range(2)]
    assert Advisor(small, keys()).draw(tried, 2) is None


def test_what_stays_below_the_median_is_given_up_after_the_first_trials():
    trials = [complete(number, 0.9, 0.02 * (number + 1)) for number in range(4)]
    for trial in trials:
        trial.curve = {1: 0.8, 2: 0.9}
    advisor = Advisor(SPACE, keys())
    assert "epoch 2" in advisor.hopeless(trials, {1: 0.3, 2: 0.4})
    assert advisor.hopeless(trials, {1: 0.9, 2: 0.95}) is None
    assert advisor.hopeless(trials[:1], {1: 0.3, 2: 0.4}) is None
    assert Advisor(SPACE, keys(prune=False)).hopeless(trials, {1: 0.3, 2: 0.4}) is None


def test_several_objectives_give_a_front():
    advisor = Advisor(SPACE, keys(objectives=("validation", "images_per_second")))
    figures = [(0.9, 10.0), (0.8, 20.0), (0.7, 15.0)]
    trials = [
        Trial(n, {"model.noise": 0.1 + 0.1 * n, "model.width": 2}, "complete", pair)
        for n, pair in enumerate(figures)
    ]
    assert [trial.number for trial in advisor.best(trials)] == [0, 1]
    assert advisor.draw(trials, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"low": 1.0},
        {"low": 2.0, "high": 1.0},
        {"choices": ()},
        {"low": 0.0, "high": 1.0, "log": True},
        {"low": 1.0, "high": 2.0, "choices": (1,)},
    ],
)
def test_spaces_that_cannot_be_are_refused(wrong):
    with pytest.raises(UserError):
        SpaceKeys(**wrong)


# What may be read


def test_the_test_set_is_no_objective_of_an_honest_search():
    honest = settings(compose_config("train", ["model=glass", "dataset=demo"]))
    paper = settings(compose_config("train", ["model=glass", "dataset=demo", "protocol=paper"]))
    for name in ("image_auroc", "pixel_auroc", "aupro_30"):
        with pytest.raises(UserError, match="test set"):
            check_objectives(keys(objectives=("validation", name)), honest)
        check_objectives(keys(objectives=("validation", name)), paper)


def test_values_do_not_depend_on_the_test_set(tmp_path):
    document = {
        "validation": {"criterion": 1.5, "val_image_auroc": 0.9, "val_pixel_ap": 0.6},
        "counts": {"good": 3, "defective": 1},
        "seconds": {"inference": 2.0},
    }
    names = ("validation", "val_image_auroc", "val_pixel_ap", "images_per_second")
    found = []
    for test in ({"auroc": 1.0}, {"auroc": 0.0}, None):
        (tmp_path / "metrics.json").write_text(
            json.dumps({**document, "image": test, "pixel": test, "oracle": test})
        )
        found.append(objective_values([tmp_path], names))
    assert found == [(1.5, 0.9, 0.6, 2.0)] * 3
    assert objective_values([tmp_path, tmp_path / "missing"], names) is None


def test_a_curve_is_read_while_it_is_written(tmp_path):
    (tmp_path / "history.csv").write_text(
        "epoch,loss,val_image_auroc,val_pixel_ap\n1,3.0,,\n2,2.0,0.5,0.25\n3,1.0,nan,0.5\n4,0."
    )
    assert read_curve(tmp_path / "history.csv", "validation") == {2: 0.75}
    assert read_curve(tmp_path / "history.csv", "val_image_auroc") == {2: 0.5}
    assert read_curve(tmp_path / "history.csv", "images_per_second") == {}


# The verb


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("data"), categories=("nut",))


@pytest.fixture(scope="module")
def conf(tmp_path_factory):
    """A user's folder: the toy, and a space for it."""
    folder = tmp_path_factory.mktemp("conf")
    shutil.copytree(TOY[1], folder, dirs_exist_ok=True)
    (folder / "sweep").mkdir()
    (folder / "sweep" / "mine.yaml").write_text(
        "defaults:\n  - optuna\n  - _self_\nsearch:\n  startup: 2\n  spaces:\n    toy:\n"
        "      model.noise: {low: 0.01, high: 0.5, log: true}\n"
        "      model.width: {choices: [2, 4, 8]}\n"
    )
    return folder


def words(data, conf, *more):
    own = [word for word in toy(data, "dataset.category=nut") if word not in TOY]
    return [
        *("sweep=mine", "sweep.name=s", "synthesis=cutpaste", "train.epochs=2", *own),
        *("--config-dir", str(conf), *more),
    ]


def told(folder):
    events = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    return [e["number"] for e in events if e["event"] == "told" and e["state"] != "failed"]


def test_a_search_finds_a_preset_that_can_be_trained(data, conf, here):
    run = here("sweep", *words(data, conf, "sweep.search.trials=3"), check=0)
    folder = here.folder / "outputs/sweeps/s"
    assert sorted(told(folder)) == [0, 1, 2]
    document = json.loads((folder / "search.json").read_text())
    assert [trial["state"] for trial in document["trials"]].count("complete") >= 2
    assert "best by validation" in run.out
    assert (folder / "sweep.csv").read_text().count("finished") >= 2
    best = max(document["trials"], key=lambda trial: trial["values"] or [-1])
    composed = compose_config(
        "train", ["experiment=best", "dataset=mvtec", "dataset.category=nut"], conf_of(folder, conf)
    )
    assert composed["model"]["noise"] == best["params"]["model.noise"]
    assert composed["train"]["epochs"] == 2


def conf_of(folder, conf):
    """The search's folder with the user's model beside: both are needed for a toy's preset."""
    shutil.copytree(conf / "model", folder / "model", dirs_exist_ok=True)
    return folder


def test_more_trials_go_on_where_the_search_ended(data, conf, here):
    here("sweep", *words(data, conf, "sweep.search.trials=2"), check=0)
    here("sweep", *words(data, conf, "sweep.search.trials=3"), check=0)
    assert sorted(told(here.folder / "outputs/sweeps/s")) == [0, 1, 2]


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("sweep.search.objectives=[image_auroc]", "test set"),
        ("sweep.search.objectives=[]", "one, or several"),
        ("model.width=2,4", "one value a key"),
        ("model=toy_peeping", "has none for model=toy_peeping"),
        ("synthesis=none", "synthetic anomalies"),
        ("sweep.search.trials=0", "at least 1"),
    ],
)
def test_what_cannot_be_searched_is_told_before_a_trial(data, conf, here, word, why):
    run = here("sweep", *words(data, conf, word), check=2)
    assert why in run.told
    assert not (here.folder / "outputs" / "sweeps" / "s" / "trials.jsonl").exists()


def test_killed_controllers_and_a_killed_worker_leave_no_gap_and_no_double(data, conf, tmp_path):
    folder = tmp_path / "outputs/sweeps/s"
    command = [sys.executable, "-m", "adbench", "sweep"]
    command += words(data, conf, "sweep.search.trials=4", "sweep.search.prune=false")

    def begun(count):
        path = folder / "trials.jsonl"
        return path.exists() and path.read_text().count('"asked"') >= count

    for count in (1, 3):
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 120
        while not begun(count) and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not running(tmp_path))  # its cells die with it, a moment later
    last = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    while not (cells := running(tmp_path)) and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(cells[0], signal.SIGKILL)
    _, lines = last.communicate(timeout=240)
    assert last.returncode == 0, lines
    assert "it is started again" in lines
    assert sorted(told(folder)) == [0, 1, 2, 3]
    params = [
        json.dumps(t["params"]) for t in json.loads((folder / "search.json").read_text())["trials"]
    ]
    assert len(set(params)) == len(params) == 4


@pytest.mark.parametrize("model", ["glass", "ulsad", "realnet", "dfr"])
def test_every_end_of_the_stored_spaces_fits_the_preset(model):
    space = compose_config("sweep", ["sweep=optuna"])["sweep"]["search"]["spaces"][model]
    for key, bounds in space.items():
        for value in bounds.get("choices") or (bounds["low"], bounds["high"]):
            words = [f"experiment={model}_cpu", "backbone=bundled", f"{key}={value}"]
            settings(compose_config("train", words))
