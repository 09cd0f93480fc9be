"""Expansion, differences, tolerance and drift: facts on made-up runs."""

import json
import zipfile

import pytest

from adbench.cli.main import main
from adbench.config.compose import compose_config
from adbench.config.schema import settings
from adbench.errors import UserError
from adbench.reports.comparison import compared, document, drifted, outside, table_rows
from adbench.reports.cost import Rate, budget, kind_of, minutes
from adbench.reports.expansion import expanded, known_categories, peer_overrides
from adbench.reports.measured import Measured, outdated, read_measured, same_request
from adbench.reports.published import paper_names, read_paper
from adbench.reports.settings import ReproduceKeys
from tests.reports.folders import made_up

GLASS = read_paper("glass")


def _cells(table, rest=(), **keys):
    return expanded(GLASS, GLASS.table(table), ReproduceKeys(**keys), rest)


def test_a_table_by_category_is_one_cell_a_setting_and_category():
    cells = _cells("1", category=("bottle", "pill"), setting=("GLASS-m", "GLASS-j"))
    assert [(c.setting, c.category) for c in cells] == [
        ("GLASS-m", "bottle"),
        ("GLASS-m", "pill"),
        ("GLASS-j", "bottle"),
        ("GLASS-j", "pill"),
    ]
    assert all(cell.alike for cell in cells)
    first = cells[0].overrides
    assert first[0] == "experiment=glass_published_cpu"
    assert {"model.hypothesis=manifold", "dataset=mvtec", "dataset.category=bottle"} <= set(first)


def test_a_mean_over_a_data_set_is_not_like_one_category():
    assert not any(cell.alike for cell in _cells("4", category="bottle"))
    whole = [cell for cell in _cells("4", setting="LAS") if cell.place == "MVTec AD"]
    assert all(cell.alike for cell in whole)
    assert [cell.category for cell in whole] == known_categories("mvtec")
    assert len(whole) == 15


def test_other_pictures_stand_beside_nothing():
    cells = _cells("1", ["dataset=demo"], category="box", setting="GLASS-m")
    assert [(c.place, c.dataset, c.category, c.alike) for c in cells] == [
        ("demo", "demo", "box", False)
    ]


def test_scale_names_the_preset_and_paper_protocol_is_looked_at():
    cell = _cells("4", scale="paper", setting="LAS")[0]
    assert cell.overrides[0] == "experiment=glass_paper"
    assert {"train.oracle_every=5", "metrics.pro_flavour=glass"} <= set(cell.overrides)
    assert "train.oracle_every=5" not in _cells("4", oracle=0)[0].overrides


def test_other_methods_run_where_they_are_asked_for_and_nowhere_else():
    assert {cell.setting for cell in _cells("1")} == {"GLASS-m", "GLASS-h", "GLASS-j"}
    cells = _cells("1", category="bottle", setting=("PatchCore", "GLASS-j"))
    assert [cell.setting for cell in cells] == ["PatchCore", "GLASS-j"]
    assert cells[0].overrides == (
        "experiment=patchcore_cpu",
        "dataset=mvtec",
        "dataset.category=bottle",
    )
    every = {cell.setting for cell in _cells("1", category="bottle", setting="all")}
    assert every == {"GLASS-m", "GLASS-h", "GLASS-j", "PatchCore", "SimpleNet"}
    with pytest.raises(UserError, match="no such setting"):
        _cells("4", setting="PatchCore")  # an ablation: its rows are settings of one method


@pytest.mark.parametrize("scale", ["cpu", "gpu", "paper"])
def test_every_other_method_can_be_started_at_every_scale(scale):
    found = {}
    for paper in map(read_paper, paper_names()):
        for table in paper.tables:
            found |= peer_overrides(table, scale)
    assert set(found) == {"PatchCore", "PaDiM", "SimpleNet", "DFR"}
    for words in found.values():
        settings(compose_config("train", words))


def test_digits_stay_names():
    ulsad = read_paper("ulsad")
    cells = expanded(ulsad, ulsad.table("15"), ReproduceKeys(category="02"))
    assert cells[0].overrides[-1] == "dataset.category='02'"


@pytest.mark.parametrize(
    ("table", "keys", "told"),
    [
        ("1", {"setting": "GLAS-m"}, "did you mean 'GLASS-m'"),
        ("1", {"category": "botle"}, "did you mean 'bottle'"),
        ("S1", {}, "adbench data check"),
        ("F1", {}, "a drawing"),
    ],
)
def test_what_cannot_be_is_said(table, keys, told):
    with pytest.raises(UserError, match=told):
        _cells(table, **keys)


def _measured(folder, image, by_paper=None):
    paper = {} if by_paper is None else {"image_auroc": by_paper}
    return Measured(folder, {"image_auroc": image, "pixel_auroc": 0.9}, paper, 2.0, 30.0)


def test_figures_are_means_over_seeds_in_percent_with_their_difference(tmp_path):
    cells = _cells("1", category="screw", setting="GLASS-m")
    found = {
        (cells[0], 0): _measured(tmp_path, 0.98, 1.0),
        (cells[0], 1): _measured(tmp_path, 0.96),
    }
    line = compared(GLASS.table("1"), cells, found, [0, 1])[0]
    assert line.ours == pytest.approx(97.0)
    assert line.spread == pytest.approx(2**0.5)
    assert line.by_paper == pytest.approx(100.0)
    assert line.delta == pytest.approx(97.0 - 99.5)
    assert table_rows([line])[0][3:7] == ["99.5", "97.00 ± 1.41", "100.00", "-2.50"]
    missing = compared(GLASS.table("1"), cells, {}, [0, 1])[0]
    assert (missing.ours, missing.delta, missing.seeds) == (None, None, 0)


def test_a_mean_waits_for_all_of_its_categories(tmp_path):
    cells = _cells("4", category=("bottle", "pill"), setting="LAS")
    cells = [cell for cell in cells if cell.place == "MVTec AD"]
    line = compared(GLASS.table("4"), cells, {(cells[0], 0): _measured(tmp_path, 1.0)}, [0])[0]
    assert line.ours is None
    assert line.pictures == "MVTec AD: bottle, pill"


def test_tolerance_judges_like_with_like_only(tmp_path):
    one = _cells("1", category="screw", setting="GLASS-m")
    lines = compared(GLASS.table("1"), one, {(one[0], 0): _measured(tmp_path, 0.98)}, [0])
    assert [v.line.metric for v in outside(lines, 1.0)] == ["image_auroc", "pixel_auroc"]
    assert outside(lines, 10.0) == []
    other = [c for c in _cells("4", category="bottle", setting="LAS") if c.place == "MVTec AD"]
    lines = compared(GLASS.table("4"), other, {(other[0], 0): _measured(tmp_path, 0.5)}, [0])
    assert outside(lines, 0.1) == []


def test_drift_is_judged_against_our_own_figures(tmp_path):
    cells = _cells("1", category="screw", setting="GLASS-m")
    found = {(cells[0], 0): _measured(tmp_path, 0.98)}
    lines = compared(GLASS.table("1"), cells, found, [0])
    stored = json.loads(json.dumps(document({"paper": "glass"}, lines, found)))
    assert drifted(lines, stored, 0.01) == []
    stored["lines"][0]["ours"] += 0.5
    assert [v.line.metric for v in drifted(lines, stored, 0.01)] == ["image_auroc"]
    assert len(drifted(lines, {"lines": []}, 0.01)) == 2


def test_figures_by_other_definitions_are_not_compared(tmp_path, capsys):
    folder = made_up(tmp_path / "run", auroc=0.9)
    assert not outdated(read_measured(folder))
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "metrics_version": 0}))
    assert outdated(read_measured(folder))
    baseline = tmp_path / "baseline.json"
    baseline.write_text(json.dumps({"lines": [], "cells": [{"metrics": "0"}]}))
    words = "paper=glass table=1 dataset=demo category=box".split()
    assert main(["reproduce", *words, f"against={baseline}"]) == 2
    assert "version 0 of the metrics, ours by version 1" in capsys.readouterr().err


def test_a_run_says_what_it_measured_by_both_protocols(tmp_path):
    run = read_measured(made_up(tmp_path, auroc=0.9))
    assert run.honest["image_auroc"] == 0.9
    assert run.paper == {"image_auroc": 0.92, "pixel_auroc": 0.96, "pro": 0.97}
    assert run.minutes == 2.0
    assert run.images_per_second == pytest.approx(10.0)
    assert run.facts["protocol"] == "honest"
    assert read_measured(tmp_path) is None


def test_runs_of_other_machines_are_known_by_their_request(tmp_path):
    words = ("experiment=glass_cpu", "model.hypothesis=manifold", "seed=0")
    there = (*words[:2], "dataset.root=/there", "run.root=x", "hardware.threads=8", "seed=0")
    folder = made_up(tmp_path, overrides=there)
    assert same_request((*words, "dataset.root=/here"), folder)
    assert not same_request((*words[:2], "seed=1"), folder)
    (folder / "overrides.yaml").write_text("!!python/object/apply:os.system [echo]")
    assert not same_request(words, folder)


def test_cost_is_estimated_from_runs_of_one_kind():
    config = {
        "model": {"name": "glass"},
        "dataset": {"image_size": 256},
        "backbone": {"name": "bundled"},
        "hardware": {"threads": 1, "accelerator": "cpu"},
        "train": {
            "steps": 600,
            "batch_size": 8,
            "epochs": 640,
            "epoch_images": 400,
            "minutes": None,
        },
    }
    assert budget(config) == 4800
    rate = Rate(kind_of(config), 8.0, 60.0)
    assert minutes(config, [rate]) == pytest.approx(11.0)
    assert minutes(config, []) is None
    other = {**config, "backbone": {"name": "resnet18"}}
    assert minutes(other, [rate]) is None


def test_the_list_names_every_table(capsys):
    assert main(["reproduce", "list"]) == 0
    told = capsys.readouterr().out
    for name in ("glass", "ulsad", "realnet", "gaa", "glad"):
        assert f"{name}: {read_paper(name).title}" in told
    assert main(["reproduce", "list", "paper=gals"]) == 2
    assert "did you mean 'glass'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["paper=glass"], "table=N"),
        (["paper=glas", "table=1"], "did you mean 'glass'"),
        (["paper=glass", "table=99"], "no such table"),
        (["paper=glass", "table=1", "scale=huge"], "scale"),
        (["paper=glass", "table=1", "train.stepz=3"], "did you mean 'steps'"),
        (["paper=glass", "table=1", "plan=true", "collect=true"], "plan"),
        (["paper=glass", "table=1", "dataset.root=/nowhere"], "nowhere"),
        (["paper=glass", "table=1", "seed=-1"], "seed"),
        (["paper=glass", "table=1", "seed=0,b"], "seed"),
        (["paper=glass", "table=1", "tolerance=-1"], "tolerance"),
        (["paper=glass", "table=1", "jobs=0"], "jobs"),
        (["paper=glass", "table=1", "oracle=x"], "oracle"),
        (["paper=glass", "table=1", "plan=maybe"], "plan"),
        (["paper=glass", "table=1", "timeout_minutes=0"], "timeout_minutes"),
        ([*"paper=glass table=1 dataset=demo category=box against=/nowhere".split()], "against"),
        (["paper=realnet", "table=S6"], "Inception"),
        (["paper=glass", "table=1", "category=bottle", "setting=x", "--config-dir=/n"], "/n"),
    ],
)
def test_bad_requests_are_one_line(words, told, capsys):
    assert main(["reproduce", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("adbench: ")
    assert told in error


CHEAP = "paper=glass table=4 setting=LAS dataset=demo category=weave dataset.image_size=64"
CHEAP += " train.steps=3 dataset.options.train=12 dataset.options.good=6 hardware.threads=1"
CHEAP += " dataset.options.defective=2 images.save=0"


def test_one_cheap_cell_from_plan_to_drift(tmp_path, capsys):
    words = ["reproduce", *CHEAP.split(), f"run.root={tmp_path}", "plain=true"]
    assert main([*words, "plan=true"]) == 0
    assert "1 cells" in capsys.readouterr().out
    baseline = tmp_path / "baseline.json"
    assert main([*words, f"save={baseline}"]) == 0
    told = capsys.readouterr().out
    assert "paper: the test set was looked at" in told
    assert "3 steps" in told
    folder = told.strip().splitlines()[-1]
    result = json.loads((tmp_path / "sweeps" / folder.split("/")[-1] / "result.json").read_text())
    assert {cell["protocol"] for cell in result["cells"]} == {"honest"}
    assert all(line["ours"] is not None for line in result["lines"])
    # again: reported, not repeated; then collected, and judged against itself
    assert main([*words, f"against={baseline}", f"archive={tmp_path / 'all.zip'}"]) == 0
    names = zipfile.ZipFile(tmp_path / "all.zip").namelist()
    assert {"result.json", "code/adbench/reports/archive.py", "code/conf/train.yaml"} <= set(names)
    assert sum(name.endswith("/metrics.json") for name in names) == 1
    assert main([*words, "collect=true", f"against={baseline}"]) == 0
    stored = json.loads(baseline.read_text())
    stored["lines"][0]["ours"] += 1
    baseline.write_text(json.dumps(stored))
    assert main([*words, "collect=true", f"against={baseline}"]) == 1
    assert "outside: LAS demo" in capsys.readouterr().err
