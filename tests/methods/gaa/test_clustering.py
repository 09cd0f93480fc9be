"""Clusters of defect regions: their number, whether at all, and that it ends."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score

from adbench.methods.gaa.clustering import (
    candidates,
    chosen_number,
    clustered,
    dense_bound,
    divided,
    indices,
    merged,
)
from adbench.methods.gaa.settings import ClusterKeys

KEYS = ClusterKeys()


def planted(k, seed, n=30, dims=16):
    rng = np.random.default_rng([k, seed])
    centres = 3 * rng.standard_normal((k, dims))
    return np.concatenate([c + rng.standard_normal((max(n // k, 5), dims)) for c in centres])


def test_indices_are_scikit_learns():
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, labels = rng.standard_normal((20, 5)), rng.integers(3, size=20)
        ch, db = indices(x, labels)
        assert ch == pytest.approx(calinski_harabasz_score(x, labels))
        assert db == pytest.approx(davies_bouldin_score(x, labels))


def test_planted_numbers_are_found_and_the_printed_equation_finds_none():
    ours = printed = 0
    for number in range(15):
        k = 2 + number % 5
        splits = candidates(planted(k, number), 0)
        ours += chosen_number(splits, "ours", 0.5, 0.5) == k
        printed += chosen_number(splits, "paper_literal", 0.5, 0.5) == k
    assert ours >= 14
    assert printed == 0


def test_the_whole_tree_finds_them_too_behind_its_gate():
    assert [clustered(planted(k, 7), KEYS, 0).max() + 1 for k in (2, 4, 6)] == [2, 4, 6]


def test_gaussian_data_are_rarely_split():
    rng = np.random.default_rng(1)
    split = sum(divided(rng.standard_normal((n, 4)), 0.1, n) for n in (6, 9, 12, 20) * 5)
    assert split <= 3


@pytest.mark.parametrize("n", range(9))
def test_every_size_ends_and_so_do_duplicates(n):
    rng = np.random.default_rng(n)
    for x in (rng.standard_normal((n, 3)), np.zeros((n, 3)), np.repeat(np.eye(3), 3, 0)[:n]):
        for keys in (KEYS, ClusterKeys(gate=1.0), ClusterKeys(score="paper_literal", gate=1.0)):
            labels = clustered(x, keys, 0)
            assert labels.shape == (n,)
            assert set(labels.tolist()) == set(range(len(set(labels.tolist()))))


def test_order_changes_names_only_and_seeds_repeat():
    x = planted(3, 5)
    order = np.random.default_rng(0).permutation(len(x))
    one, other = clustered(x, KEYS, 0), clustered(x[order], KEYS, 0)
    assert (clustered(x, KEYS, 0) == one).all()
    same = one[order]
    assert ((same[:, None] == same[None]) == (other[:, None] == other[None])).all()


def test_the_dense_rule_is_off_where_it_is_void_or_endless():
    assert all(dense_bound(n) == float("inf") for n in range(1, 19))
    assert dense_bound(19) < 19
    assert dense_bound(100) == pytest.approx(100 / (np.log(10) + 0.4))


def test_small_groups_join_the_nearest():
    x = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2], [1.0]])
    assert merged(x, np.array([0, 0, 0, 1, 1, 1, 2]), 3).tolist() == [0, 0, 0, 1, 1, 1, 0]


def test_no_rounds_is_one_cluster():
    assert set(clustered(planted(3, 1), ClusterKeys(rounds="none"), 0).tolist()) == {0}
