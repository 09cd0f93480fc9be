"""Histograms of image scores."""

from __future__ import annotations

import numpy as np
import pytest

from adbench.training.score_plot import score_histograms

ROWS = np.array([0.1, 0.2, 0.2, 0.9])
EMPTY = np.zeros(0)


def test_a_row_for_each_group_with_scores():
    one = score_histograms({"a": ROWS, "b": EMPTY}, None)
    two = score_histograms({"a": ROWS, "b": ROWS}, None)
    assert one.dtype == np.uint8
    assert two.shape[0] > one.shape[0]
    assert two.shape[1:] == one.shape[1:]


def test_the_tallest_bar_stands_where_most_scores_are():
    picture = score_histograms({"a": ROWS}, None)
    coloured = (picture == (120, 170, 220)).all(-1).sum(0)
    bars = np.flatnonzero(coloured == coloured.max())
    share = (bars.mean() - 16) / (picture.shape[1] - 32)
    assert share == pytest.approx((0.2 - 0.1) / 0.8, abs=1 / 64)
    assert coloured[-26:-16].max() == pytest.approx(coloured.max() / 2, abs=2)


@pytest.mark.parametrize("threshold", [-3.0, 0.5, 7.0])
def test_the_threshold_is_drawn_even_beyond_all_scores(threshold):
    picture = score_histograms({"a": ROWS}, threshold)
    column = (picture == (200, 60, 50)).all(-1).sum(0)
    low, high = min(0.1, threshold), max(0.9, threshold)
    place = 16 + (threshold - low) / (high - low) * (picture.shape[1] - 32)
    assert abs(int(column.argmax()) - place) <= 1


def test_equal_scores_do_not_divide_by_zero():
    assert score_histograms({"a": np.full(5, 2.0)}, 2.0).any()
