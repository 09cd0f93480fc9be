"""Coreset and search: the fast forms against the plain ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adbench.methods import coreset, nearest
from adbench.methods.coreset import greedy_coreset, plain_coreset, projected
from adbench.methods.nearest import Bank, chunked_nearest, plain_nearest
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


@pytest.fixture
def bfloat16_everywhere(monkeypatch):
    """Take the way of bounded products on any processor, for small banks too."""
    monkeypatch.setattr(nearest, "bfloat16_is_fast", lambda device: True)
    monkeypatch.setattr(nearest, "_CHUNK", 32)
    monkeypatch.setattr(nearest, "_TILE", 64)
    monkeypatch.setattr(nearest, "_QUERIES", 50)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("count", [33, 64, 500])
def test_the_search_is_exact(scale, count, bfloat16_everywhere):
    """Against float64; features far from the origin, some of them near the bank, some on it."""
    kept = (torch.randn(count, 40, generator=generator(count)) + 3) * scale
    bank = Bank(count, 40)
    bank.set(kept)
    near = bank.exact[torch.arange(40) % count] + 0.05 * scale * torch.randn(
        40, 40, generator=generator(1)
    )
    far = 2 * scale * torch.randn(60, 40, generator=generator(2))
    rows = torch.cat([near, far, bank.exact[:9]])
    exact = torch.cdist(rows.double(), bank.exact.double()).amin(1)
    found = bank.nearest(rows).sqrt().double()
    assert torch.allclose(found, exact, rtol=1e-5, atol=1e-6 * scale)
    for other in (plain_nearest, chunked_nearest):
        assert torch.allclose(
            other(rows, bank.exact).double(), exact**2, atol=2e-5 * scale**2 * 400
        )


def test_a_bank_of_equal_features_is_searched_by_the_full_product(bfloat16_everywhere):
    bank = Bank(300, 8)
    bank.set(torch.ones(300, 8))
    found = bank.nearest(torch.zeros(100, 8))
    assert torch.allclose(found, torch.full((100,), 8.0))


def test_a_loaded_bank_searches_alike():
    bank = Bank(20, 4)
    bank.set(torch.randn(20, 4, generator=generator()))
    again = Bank(20, 4)
    again.load_state_dict(bank.state_dict())
    assert list(bank.state_dict()) == ["kept"]
    rows = torch.randn(7, 4, generator=generator(1))
    assert torch.equal(again.nearest(rows), bank.nearest(rows))


def test_the_reweighted_score_by_hand():
    bank = torch.tensor([[0.0], [1.0], [10.0]])
    # nearest of 3 is 1; its neighbours are itself and 0: distances 2 and 3
    e = torch.e
    expected = 2 * (1 - e**2 / (e**2 + e**3))
    assert float(reweighted_score(torch.tensor([[3.0]]), bank, 2)) == pytest.approx(expected)
