"""Decisions, drift, regions, ledger and wire in closed form."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from adbench.deploy.decision import Drift, Rule, ks_distance
from adbench.deploy.ledger import Ledger
from adbench.deploy.reading import Reading
from adbench.deploy.regions import regions_of
from adbench.deploy.wire import packed, received
from adbench.training.threshold import StoredThreshold, Threshold


def rule(scores, value=1.0):
    return Rule.of(StoredThreshold(Threshold(value, "test", 0.1), np.array(scores, float), 0.5))


def test_confidence_is_a_half_at_the_threshold_and_a_sigmoid_of_held_out_deviations():
    found = rule([0.0, 0.5, 1.0])
    assert found.scale == pytest.approx(0.5)
    assert found.confidence(1.0) == 0.5
    assert found.confidence(1.5) == pytest.approx(1 / (1 + math.exp(-1)))
    assert found.confidence(1e300) == pytest.approx(1)
    assert [found.verdict(s) for s in (1.0, 1.0 + 1e-9, math.nan, math.inf)] == [
        "ok",
        "ng",
        "error",
        "error",
    ]
    assert rule([0.3]).confidence(0.2) is None


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=30),
    st.lists(st.floats(-5, 5), min_size=1, max_size=30),
)
def test_the_distance_is_kolmogorovs(first, second):
    one, other = np.sort(np.array(first)), np.sort(np.array(second))
    assert ks_distance(one, other) == pytest.approx(ks_2samp(one, other).statistic)


def test_drift_is_told_once_and_not_without_change():
    rng = np.random.default_rng(0)
    still, moved = (Drift(rule(rng.normal(0, 0.1, 60))) for _ in range(2))
    assert not [told for s in rng.normal(0, 0.1, 3000) if (told := still.add(float(s)))]
    told = [text for s in rng.normal(0.2, 0.1, 600) if (text := moved.add(float(s)))]
    assert len(told) == 1
    assert moved.record()["drifted"] is True


def test_regions_lie_in_the_pictures_frame():
    values = np.zeros((10, 20), np.float32)
    values[2:4, 5:8] = 0.9
    values[7, 15] = 2.0
    found = regions_of(values, 0.5, Reading((10, 20)), (20, 60))
    assert [(r.box, r.peak) for r in found] == [
        ((45, 14, 3, 2), 2.0),
        ((15, 4, 9, 4), pytest.approx(0.9)),
    ]
    assert found[1].area == pytest.approx(6 * 2 * 3)
    assert regions_of(values, 3.0, Reading((10, 20)), (20, 60)) == []
    padded = regions_of(np.ones((16, 16), np.float32), 0.5, Reading((16, 16), "pad"), (10, 40))
    assert padded[0].box == (0, 0, 40, 10)


def test_a_torn_line_is_cut_and_judged_pictures_are_known(tmp_path):
    record = {
        "id": "a" * 16,
        "time": "t",
        "source": 'x,"y"',
        "verdict": "ok",
        "score": 0.1,
        "threshold": 1.0,
        "confidence": None,
        "regions": [],
        "map": None,
        "overlay": None,
        "milliseconds": {"decode": 1.0},
        "error": None,
    }
    first = Ledger(tmp_path / "scores.csv")
    first.add(record)
    first.close()
    whole = (tmp_path / "scores.csv").read_bytes()
    for cut in range(1, 20):
        (tmp_path / "scores.csv").write_bytes(whole + whole[-40:-cut])
        again = Ledger(tmp_path / "scores.csv")
        assert again.knows("a" * 16)
        assert not again.knows("b" * 16)
        assert again.counts == {"ok": 1, "ng": 0, "error": 0}
        again.close()
        assert (tmp_path / "scores.csv").read_bytes() == whole


@given(st.dictionaries(st.text(), st.integers()), st.binary(max_size=200))
def test_messages_come_back_whole(document, body):
    data = packed(document, body)
    assert received(io.BytesIO(data)) == (document, body)
    assert received(io.BytesIO(data[:-1])) is None
