"""The operating threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adbench.training.threshold import threshold_entry, threshold_of


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60, unique=True), st.floats(0.005, 0.5))
def test_the_promised_rate_holds_for_exchangeable_scores(scores, rate):
    found = threshold_of(np.array(scores), rate)
    above = int((np.array(scores) > found.value).sum())
    assert found.expected_false_alarm_rate == pytest.approx(
        (above + 1) / (len(scores) + 1), abs=1e-6
    )
    assert above == 0 or found.expected_false_alarm_rate <= rate + 1e-6


def test_few_images_give_the_maximum():
    found = threshold_of(np.array([0.1, 0.7, 0.3]), 0.01)
    assert found.value == 0.7
    assert found.expected_false_alarm_rate == 0.25


def test_nothing_held_out_gives_no_threshold():
    found = threshold_of(np.array([]), 0.01)
    entry = threshold_entry(found, np.array([1.0]), np.array([1]))
    assert entry["value"] is None
    assert entry["recall"] is None


def test_precision_and_recall_by_hand():
    found = threshold_of(np.array([0.5]), 0.01)
    entry = threshold_entry(found, np.array([0.4, 0.6, 0.7, 0.5]), np.array([0, 0, 1, 1]))
    assert entry["precision"] == 0.5
    assert entry["recall"] == 0.5
