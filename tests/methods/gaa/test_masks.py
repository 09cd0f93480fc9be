"""Forms, sizes and places of masks."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.feature import local_binary_pattern

from adbench.methods.gaa import placement
from adbench.methods.gaa.features import binary_patterns, fused
from adbench.methods.gaa.geometry import Similarity, enhanced, scale_factor, warped
from adbench.methods.gaa.masks import Plan, Planner
from adbench.methods.gaa.rules import Rule, inferred, place_of
from adbench.methods.gaa.settings import MaskKeys, RuleKeys
from adbench.methods.gaa.units import RealDefects, components_of

SIZE = (64, 64)


def disc(y, x, r, size=SIZE):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= r * r


def real_of(*masks, types=None):
    found = RealDefects([], [], [], [])
    for number, mask in enumerate(masks):
        labels, units = components_of(mask, number, (types or ["hole"] * 9)[number], 4)
        image = np.random.default_rng(number).integers(0, 255, (*mask.shape, 3), dtype=np.uint8)
        found.files.append(f"{number}.png")
        found.images.append(image)
        found.components.append(labels)
        found.units += units
    from dataclasses import replace

    names = found.types
    found.units = [replace(u, cluster=names.index(u.defect)) for u in found.units]
    return found


def test_scale_adaptation_gives_the_areas_of_the_equation():
    assert scale_factor(100, 400, 1.0) ** 2 == pytest.approx(4.0)
    assert scale_factor(100, 400, 0.5) ** 2 == pytest.approx(3.22, abs=0.01)
    assert scale_factor(100, 400, 0.0) ** 2 == pytest.approx(2.52, abs=0.01)
    assert scale_factor(7, 7, 0.3) == pytest.approx(1.0)
    ratios = [scale_factor(100, mean, 0.5) for mean in (20, 50, 100, 200, 900)]
    assert ratios == sorted(ratios)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
def test_a_warped_mask_has_the_area_of_its_scale(scale):
    mask = disc(32, 32, 14)
    found, _ = warped(mask, Similarity(scale, 33.0, True))
    assert found.sum() == pytest.approx(scale**2 * mask.sum(), rel=0.03)


def test_mask_and_pixels_stay_aligned_under_a_warp():
    mask = np.zeros(SIZE, bool)
    mask[20:30, 14:44] = True
    patch = np.where(mask[..., None], 200, 20).astype(np.uint8).repeat(3, -1)
    found, pixels = warped(mask, Similarity(1.3, 40.0, False), patch)
    assert pixels[found].mean() > 180
    assert pixels[~found].mean() < 40


def test_an_enhanced_mask_differs_but_keeps_pieces_and_area():
    mask, rng = disc(32, 32, 12), np.random.default_rng(0)
    found = [enhanced(mask, rng) for _ in range(20)]
    assert all(0.5 * mask.sum() <= f.sum() <= 2 * mask.sum() for f in found)
    assert any((f != mask).any() for f in found)
    thin = np.zeros(SIZE, bool)
    thin[10, 5:50] = True
    assert (enhanced(thin, rng) == thin).all()


def test_overflow_is_brute_force():
    rng = np.random.default_rng(0)
    mask, region = rng.random((5, 7)) < 0.5, rng.random((20, 31)) < 0.6
    found = placement.overflow(mask, region)
    for y in range(16):
        for x in range(25):
            assert found[y, x] == (mask & ~region[y : y + 5, x : x + 7]).sum()


def test_inside_lies_inside_exactly_and_no_place_is_no_place():
    region, mask = disc(30, 30, 20), np.ones((6, 9), bool)
    for seed in range(20):
        spot = placement.inside(mask, region, np.random.default_rng(seed))
        assert region[spot.top : spot.top + 6, spot.left : spot.left + 9].all()
    assert placement.inside(np.ones((50, 50), bool), region, np.random.default_rng(0)) is None


def test_rules_are_read_off_the_masks():
    region = disc(32, 32, 20)
    assert place_of(disc(32, 32, 4) & region, region) == "inside"
    assert place_of(disc(32, 52, 5), region) == "edge"
    assert place_of(disc(32, 32, 19), region) == "logical"
    bar = np.zeros(SIZE, bool)
    bar[30:34, 4:60] = True
    assert place_of(bar, region) == "centre"
    found = inferred([disc(32, 52, 5)], [region.astype(np.uint8)], RuleKeys(turn=7.0))
    assert (found.place, found.region, found.turn, found.given) == ("edge", 1, 7.0, ("turn",))


@pytest.mark.parametrize("place", ["inside", "edge", "centre", "own", "logical"])
def test_no_plan_is_empty_and_equal_seeds_plan_alike(place):
    real = real_of(disc(20, 20, 5), disc(30, 40, 8), disc(12, 12, 3), types=["a", "a", "b"])
    region = disc(32, 32, 25).astype(np.uint8)
    rules = {"a": Rule(place, 1, 180.0), "b": Rule("inside", 1, 15.0)}
    keys = MaskKeys(combined=0.3)
    made = [Planner(real, rules, [region] * 3, keys, 5, outline=True) for _ in range(2)]
    for number in range(40):
        (plan, labels), (again, same) = (each.plan("a", number) for each in made)
        assert plan == again
        assert (labels == same).all()
        assert labels.any()
        assert labels.max() == len(plan.parts)
        assert plan == Plan.of_row(plan.as_row())
        if place == "logical":
            assert ((labels == 1) == (region == 1)).all()
        if place == "inside":
            assert (region[labels > 0] == 1).all()
    assert sum(made[0].counts.values()) >= 40


def test_a_plan_does_not_depend_on_those_before_it():
    real = real_of(disc(20, 20, 5))
    planners = [
        Planner(
            real,
            {"hole": Rule("inside", 1, 90.0)},
            [np.ones(SIZE, np.uint8)],
            MaskKeys(),
            1,
            outline=False,
        )
        for _ in range(2)
    ]
    planners[0].plan("hole", 0)
    assert planners[0].plan("hole", 7)[0] == planners[1].plan("hole", 7)[0]


def test_local_binary_patterns_are_scikit_images():
    # integer grey values tie: scikit-image interpolates in float64, OpenCV's remap in fixed point
    grey = np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.float64)
    found = binary_patterns(grey, 8, 1.0)[3:-3, 3:-3]
    wanted = local_binary_pattern(grey, 8, 1.0, "uniform")[3:-3, 3:-3]
    assert (found == wanted).mean() > 0.97


def test_blocks_of_features_have_equal_variance():
    rng = np.random.default_rng(0)
    blocks = {"lab": rng.standard_normal((30, 6)), "lbp": 100 * rng.standard_normal((30, 28))}
    found = fused(blocks, {"lab": 0.5, "lbp": 0.5})
    assert found[:, :6].var(0).sum() == pytest.approx(found[:, 6:].var(0).sum())


def test_large_components_come_first_and_small_ones_count_where_all_are():
    mask = disc(10, 10, 6) | disc(40, 40, 3) | disc(60, 5, 1)
    labels, units = components_of(mask, 0, "hole", 16)
    assert [unit.area for unit in units] == [disc(10, 10, 6).sum(), disc(40, 40, 3).sum()]
    assert set(np.unique(labels)) == {0, 1, 2}
    assert len(components_of(disc(60, 5, 1), 0, "hole", 16)[1]) == 1
