"""Figures of one model over several categories, of kinds and of lights, in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adbench.data.sample import Sample
from adbench.metrics import PixelMetrics
from adbench.runs.summary import mean_metrics
from adbench.sweeps.grid import Cell
from adbench.sweeps.table import SweepTable
from adbench.training.sections import Sections, pixel_group
from adbench.training.selection import _TEST, criterion


def sections(rows):
    """Sections of pictures given as (category, defect, score, kind, group), 4 x 4 pixels each."""
    samples, scores = [], []
    pixel = PixelMetrics(limits=(0.3,))
    for number, (category, defect, score, kind, group) in enumerate(rows):
        label = int(defect != "good")
        sample = Sample(
            Path(f"/d/{number}.png"),
            label,
            category,
            defect,
            "test",
            (Path("m"),) if label else (),
            kind=kind,
            group=group,
        )
        mask = np.zeros((4, 4), dtype=bool)
        mask[:2] = bool(label)
        anomaly_map = np.full((4, 4), score - 0.5)
        anomaly_map[:2] = score
        pixel.update(anomaly_map, mask, group=pixel_group(sample), name=str(number))
        samples.append(sample)
        scores.append(score)
    labels = np.array([sample.label for sample in samples])
    return Sections(samples, np.array(scores), labels, pixel, {}, None).all()


def rows_of(category, offset, kind=None, group=None):
    good = [(category, "good", offset + s, None, group) for s in (0.0, 0.1)]
    return good + [(category, "hole", offset + s, kind, group) for s in (2.0, 2.1)]


def test_two_perfect_categories_are_a_perfect_model():
    found = sections([*rows_of("a", 0), *rows_of("b", 2.5)])
    assert found["image"]["auroc"] == 1.0
    assert found["pooled"]["image"]["auroc"] == 0.75
    assert {name: part["image"]["auroc"] for name, part in found["by_category"].items()} == {
        "a": 1.0,
        "b": 1.0,
    }
    assert found["why"]["image"] == "mean over 2 categories"
    assert set(found["by_defect"]) == {"a/hole", "b/hole"}
    assert found["counts"] == {"good": 4, "defective": 4, "unlabelled": 0, "without_mask": 0}


def test_one_category_is_told_as_it_is():
    found = sections(rows_of("a", 0))
    assert "pooled" not in found
    assert set(found["by_defect"]) == {"hole"}
    assert found["image"]["auroc"] == 1.0


def test_defects_of_one_name_in_two_categories_meet_their_own_normals_only():
    found = sections([*rows_of("a", 0), *rows_of("b", 50)])
    assert (
        found["by_defect"]["a/hole"]["pixel"]["auroc"]
        == found["by_defect"]["b/hole"]["pixel"]["auroc"]
    )


def test_lights_have_pixel_figures_of_their_own():
    found = sections([*rows_of("a", 0, group="dim"), *rows_of("a", 2.5, group="bright")])
    assert found["by_group"]["dim"]["auroc"] == 1.0
    assert (
        found["by_group"]["bright"]["pixel"]["auroc"] == found["by_group"]["dim"]["pixel"]["auroc"]
    )
    assert found["image"]["auroc"] == 0.75


def test_the_headline_of_kinds_is_the_mean_over_categories_of_the_mean_of_kinds():
    a = sections([*rows_of("a", 0, kind="logical"), *rows_of("a", -2.1, kind="structural")[2:]])
    b = sections([*rows_of("b", 0, kind="logical"), *rows_of("b", 0, kind="structural")[2:]])
    mean = mean_metrics([a, b])
    wanted = (a["by_kind"]["mean"]["image"]["auroc"] + 1.0) / 2
    assert mean["by_kind"]["mean"]["image"]["auroc"] == pytest.approx(wanted)
    assert a["by_kind"]["logical"]["image"]["auroc"] == 1.0
    assert a["by_kind"]["structural"]["image"]["auroc"] < 1.0


def test_selection_goes_by_the_figure_that_is_named():
    figures = {"image_auroc": 0.9, "pixel_auroc": 0.7}
    assert criterion(figures, _TEST, "image") == 0.9
    assert criterion(figures, _TEST, "pixel") == 0.7
    assert criterion(figures, _TEST, "both") == pytest.approx(1.6)


def test_sweeps_mean_over_categories_first_and_over_seeds_then(tmp_path, monkeypatch):
    values = {("1", "a"): 0.8, ("1", "b"): 0.6, ("2", "a"): 1.0, ("2", "b"): 0.8, ("3", "a"): 0.1}
    cells = [
        Cell((f"seed={seed}", f"dataset.category={name}"), {"seed": seed, "dataset.category": name})
        for seed in ("1", "2", "3")
        for name in ("a", "b")
    ]

    def entry(self, cell):
        key = (cell.values["seed"], cell.values["dataset.category"])
        done = {"status": "finished", "metrics": {"image_auroc": values.get(key)}}
        state = done if key in values else {"status": "failed"}
        return {"overrides": list(cell.overrides), "values": cell.values, **state}

    monkeypatch.setattr(SweepTable, "_of", entry)
    text = SweepTable(tmp_path / "s", cells).markdown()
    assert "mean over categories of each seed" in text
    line = next(line for line in text.splitlines() if line.startswith("| 2 of 3 |"))
    assert "0.8000 ± 0.1414" in line  # of .7 and .9; seed 3 lacks a category
