"""Generation metrics against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from adbench.metrics.generation import (
    clustered_distance,
    copied_share,
    figures_of,
    frechet_distance,
    inception_score,
    kernel_distance,
    kin_share,
    metric_name,
    table_of,
)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((40, 6))


def test_frechet_distance_has_its_closed_forms(x):
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    shift = np.arange(6.0)
    assert frechet_distance(x, x + shift) == pytest.approx((shift**2).sum())
    centred = x - x.mean(0)
    wanted = (3 - 1) ** 2 * np.trace(np.cov(centred.T))
    assert frechet_distance(centred, 3 * centred) == pytest.approx(wanted)


def test_the_nuclear_norm_is_the_trace_of_the_root(x):
    y = np.random.default_rng(1).standard_normal((25, 6)) * 2 + 1
    s, t = np.cov(x.T), np.cov(y.T)
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * sqrtm(s @ t).real)
    assert frechet_distance(x, y) == pytest.approx(wanted, rel=1e-6)


def test_kernel_distance_averages_to_nothing_over_random_halves(x):
    rng = np.random.default_rng(2)
    found = []
    for _ in range(300):
        order = rng.permutation(40)
        found.append(kernel_distance(x[order[:20]], x[order[20:]]))
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(300)
    assert kernel_distance(x, x + 3) > 1


def test_inception_score_is_between_one_and_the_classes():
    assert inception_score(np.full((9, 4), 0.25)) == pytest.approx(1)
    assert inception_score(np.tile(np.eye(4), (3, 1))) == pytest.approx(4)


def test_copies_have_no_distance_and_are_told(x):
    copies = np.repeat(x[:5], 4, 0)
    assert clustered_distance(copies, x[:5]) == 0
    assert copied_share(copies, x[:5]) == 1
    assert copied_share(x[5:] + 10, x[:5]) == 0


def test_bare_names_are_earned_by_standard_weights_alone(x):
    assert metric_name("FID", "bundled", "36084b7b01f5ffff") == "fd@bundled-36084b7b"
    assert metric_name("IC-LPIPS", "vgg", None) == "icd@vgg"
    assert metric_name("FID", "inception", "6726825d" + "0" * 56) == "FID"
    row = figures_of("pairs", x, x[:9], network="bundled", sha256=None, seed=3)
    assert not any(name.startswith(("FID", "KID", "IS", "IC-")) for name in row.figures)
    assert all("n=40,m=9,seed=3" in name for name in row.figures)


def test_copies_are_of_their_own_kind_even_where_kinds_overlap(x):
    kinds = np.arange(40) % 4  # drawn from one distribution: no centre tells them apart
    assert kin_share(x + 1e-6, kinds, x, kinds) == 1
    chance = [
        kin_share(x, np.random.default_rng(s).permutation(kinds), x, kinds) for s in range(30)
    ]
    assert np.mean(chance) == pytest.approx(0.25, abs=0.05)
    assert kin_share(1000 * x, kinds, 1000 * x, kinds) == 1


def test_no_table_without_both_controls(x):
    keys = {"network": "bundled", "sha256": None, "seed": 0}
    rows = table_of({"pairs": x}, x[:9], perlin=x + 5, copies=x[:9], **keys)
    assert [row.name for row in rows] == ["pairs", "control: Perlin", "control: plain copies"]
    assert [row.images for row in rows] == [40, 40, 9]
    with pytest.raises(TypeError):
        table_of({"pairs": x}, x[:9], copies=x, **keys)


def test_too_few_rows_are_refused(x):
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(x[:1], x)
