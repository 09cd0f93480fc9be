"""The nearest of a bank: the ways of finding it give what float64 gives."""

from __future__ import annotations

import pytest
import torch

from adbench.methods import candidates, nearest
from adbench.methods.candidates import Candidates
from adbench.methods.nearest import Bank, chunked_nearest, plain_nearest


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["bfloat16", "float32"])
def by_candidates(request, monkeypatch):
    """Take the way of bounds for small banks too, as on processors with and without bfloat16."""
    monkeypatch.setattr(nearest, "bfloat16_is_fast", lambda device: request.param == "bfloat16")
    monkeypatch.setattr(nearest, "_CHUNK", 32)
    monkeypatch.setattr(nearest, "_SMALL", 64)
    monkeypatch.setattr(candidates, "TILE", 64)
    monkeypatch.setattr(candidates, "QUERIES", 50)


def few_directions(count, seed, columns=80, kept=3):
    """Rows [count, columns] that a few axes hold almost wholly."""
    axes = torch.randn(kept, columns, generator=generator(99))
    noise = 0.02 * torch.randn(count, columns, generator=generator(seed + 1))
    return torch.randn(count, kept, generator=generator(seed)) @ axes + noise


@pytest.mark.parametrize("make", ["every direction", "few directions", "a plane"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("count", [33, 64, 500])
def test_the_search_is_exact(make, scale, count, by_candidates):
    """Against float64; features far from the origin, some of them near the bank, some on it."""
    rows = {
        "every direction": torch.randn(count, 80, generator=generator(count)),
        "few directions": few_directions(count, count),
        "a plane": torch.randn(count, 2, generator=generator(count)).repeat(1, 40),
    }[make]
    bank = Bank(count, 80)
    bank.set((rows + 3) * scale)
    own = bank.exact[torch.arange(40) % count]
    near = own + 0.05 * scale * torch.randn(40, 80, generator=generator(1))
    beside = own + 0.05 * scale * few_directions(40, 5)
    far = 2 * scale * torch.randn(60, 80, generator=generator(2))
    asked = torch.cat([near, beside, far, bank.exact[:9]])
    exact = torch.cdist(asked.double(), bank.exact.double()).amin(1)
    found = bank.nearest(asked).sqrt().double()
    assert torch.allclose(found, exact, rtol=1e-5, atol=1e-6 * scale)
    for other in (plain_nearest, chunked_nearest):
        assert torch.allclose(
            other(asked, bank.exact).double(), exact**2, atol=4e-5 * scale**2 * 400
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_few_columns_and_few_whole_distances_suffice(dtype, monkeypatch):
    """Where the bank has few directions, as features of photographs have."""
    asked = []
    least = Candidates._least

    def counted(self, found, rows, query, index):
        asked.append(len(query))
        return least(self, found, rows, query, index)

    monkeypatch.setattr(Candidates, "_least", counted)
    bank, rows = few_directions(3000, 1), few_directions(200, 7)
    search = Candidates(bank, dtype)
    assert search.table.shape[1] == 32 + 7
    found, left = search.nearest(rows)
    assert len(left) == 0
    torch.testing.assert_close(found, torch.cdist(rows, bank).amin(1) ** 2, rtol=1e-3, atol=1e-4)
    assert sum(asked) < 40 * len(rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_bounds_hold(dtype):
    """No product of the table lies above half the squared distance by more than its margin."""
    bank, rows = few_directions(1024, 3), few_directions(50, 4) * 1.5
    search = Candidates(bank, dtype)
    queries, margin = search._queries(rows)
    products = queries.double() @ search.table.double().mT
    half = torch.cdist(rows.double(), bank.double()) ** 2 / 2
    assert bool((products <= half + margin[:, None]).all())


@pytest.mark.parametrize("share", [0.94, 1.0])
def test_what_looks_like_nothing_in_the_bank_is_left_open_and_the_rest_is_not(share):
    bank = few_directions(4000, 1)
    strange = torch.randn(20, 80, generator=generator(5)) * 100
    rows = torch.cat([few_directions(30, 7), strange])
    search = Candidates(bank, torch.bfloat16, share)
    found, left = search.nearest(rows)
    decided = sorted(set(range(50)) - set(left.tolist()))
    exact = torch.cdist(rows, bank).amin(1) ** 2
    assert set(range(30)) <= set(decided)
    assert len(left) > 0
    torch.testing.assert_close(found[decided], exact[decided], rtol=1e-3, atol=1e-4)
    assert bool((found[left] >= exact[left] * (1 - 1e-4)).all())
    whole = Bank(4000, 80)
    whole.set(bank)
    wanted = torch.cdist(rows.double(), whole.exact.double()).amin(1)
    torch.testing.assert_close(whole.nearest(rows).sqrt().double(), wanted, rtol=1e-4, atol=1e-4)


def test_a_bank_of_equal_features_is_searched_by_the_full_product(by_candidates):
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


def test_a_bank_that_was_changed_is_searched_anew(by_candidates):
    bank = Bank(100, 8)
    for seed in (0, 1):
        bank.set(torch.randn(100, 8, generator=generator(seed)))
        assert float(bank.nearest(bank.exact[:5]).amax()) < 1e-6
