"""Coreset and search: the fast forms against the plain ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adbench.methods import coreset
from adbench.methods.coreset import greedy_coreset, plain_coreset, projected
from adbench.methods.patchcore.detector import reweighted_score


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 12), st.integers(2, 40), st.floats(0.01, 1), st.integers(0)
)
def test_the_blocked_choice_is_the_greedy_one(count, width, pool, share, seed):
    points = torch.randn(count, width, generator=generator(seed % 1000))
    kept = max(round(share * count), 1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(coreset, "_POOL", pool)
        found = greedy_coreset(points, kept, 0)
    assert len(set(found.tolist())) == kept
    assert shortfall(points, found) < 1e-5 * points.square().sum(1).max()


def shortfall(points, chosen):
    """By how much a pick was nearer to those before it than the farthest point was, at most.

    In float64. Two points that float32 cannot tell apart may be picked in either order, and all
    picks after them differ; each must still be the farthest at its turn.
    """
    points = points.double()
    nearest = (points - points[chosen[0]]).square().sum(1)
    worst = 0.0
    for pick in chosen[1:]:
        worst = max(worst, float(nearest.max() - nearest[pick]))
        nearest = torch.minimum(nearest, (points - points[pick]).square().sum(1))
    return worst


def test_both_forms_choose_alike_where_no_two_points_are_near():
    points = torch.randn(200, 8, generator=generator())
    assert greedy_coreset(points, 100, 0).tolist() == plain_coreset(points, 100, 0).tolist()
    assert shortfall(points, torch.arange(100)) > 0.1  # any other order is told apart


def test_equal_points_are_each_chosen_once():
    found = greedy_coreset(torch.ones(50, 4), 50, 7)
    assert sorted(found.tolist()) == list(range(50))


def test_the_projection_keeps_squared_distances_on_average():
    rows = torch.randn(300, 256, generator=generator())
    made = projected(rows, 128, generator(1))
    ratio = torch.pdist(made).square().mean() / torch.pdist(rows).square().mean()
    assert made.shape == (300, 128)
    assert float(ratio) == pytest.approx(1, abs=0.05)
    assert torch.equal(projected(rows, None, generator()), rows)


def test_the_reweighted_score_by_hand():
    bank = torch.tensor([[0.0], [1.0], [10.0]])
    # nearest of 3 is 1; its neighbours are itself and 0: distances 2 and 3
    e = torch.e
    expected = 2 * (1 - e**2 / (e**2 + e**3))
    assert float(reweighted_score(torch.tensor([[3.0]]), bank, 2)) == pytest.approx(expected)
