"""Pixel metrics against the stored references, brute force and their own defined answers."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adbench.errors import UserError
from adbench.metrics import PixelMetrics, pixel_metrics
from adbench.metrics.curves import limit_key
from adbench.metrics.regions import region_labels

LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)
CASES = [
    "random",
    "informative",
    "ties",
    "perfect",
    "inverted",
    "constant",
    "signed",
    "rings",
    "unequal",
    "outlier",
    "exact_limit",
    "all_normal",
    "all_defect",
]


@pytest.fixture(scope="module")
def judge(shared):
    with np.load(shared / "judges" / "metrics" / "pixel.npz", allow_pickle=False) as stored:
        return dict(stored)


def of(judge, case):
    return judge[f"{case}/maps"], judge[f"{case}/masks"].astype(bool)


def same(value, reference, tolerance):
    if value is None:
        assert np.isnan(reference)
    else:
        assert value == pytest.approx(float(reference), abs=tolerance)


@pytest.mark.shared
@pytest.mark.parametrize("mode", ["exact", "two_pass"])
@pytest.mark.parametrize("case", CASES)
def test_judge(judge, case, mode):
    maps, masks = of(judge, case)
    found = pixel_metrics(maps, masks, limits=LIMITS, mode=mode)
    for name in ("auroc", "ap", "f1max", "f1max_threshold"):
        reference = judge.get(f"{case}/{name}", np.nan)
        # The judge gives AP and F1 a 1 where all is defective: with one class there is no figure.
        same(found[name], np.nan if case == "all_defect" else reference, 1e-12)
    for limit, reference in zip(LIMITS, judge[f"{case}/aupro"], strict=True):
        same(found[limit_key(limit)], reference, 1e-7)


@pytest.mark.shared
@pytest.mark.parametrize("bits", [12, 16, 20, 22])
@pytest.mark.parametrize("case", CASES)
def test_histogram_within_its_bound(judge, case, bits):
    maps, masks = of(judge, case)
    exact = pixel_metrics(maps, masks, limits=LIMITS)
    found = pixel_metrics(maps, masks, limits=LIMITS, mode="histogram", bits=bits)
    for name, (low, high) in found["bounds"].items():
        assert low - 1e-12 <= exact[name] <= high + 1e-12, name
        assert low - 1e-12 <= found[name] <= high + 1e-12, name
    for name in ("auroc", "ap", "f1max", "aupro_30"):
        assert (found[name] is None) == (exact[name] is None)


@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("flavour", ["glass", "glad", "realnet"])
def test_flavours(judge, case, flavour):
    maps, masks = of(judge, case)
    reference = float(judge.get(f"{case}/flavour_{flavour}", np.nan))
    if np.isnan(reference):
        pytest.skip("the repository's function failed on this case")
    found = pixel_metrics(maps, masks, pro_flavour=flavour)[f"pro_{flavour}"]
    assert found == pytest.approx(reference, abs=5e-5 if flavour == "glad" else 1e-9)


def brute_force(maps, masks, limit):
    """AUPRO by a loop over every threshold."""
    regions = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        count, labels = region_labels(mask)
        regions += [anomaly_map[labels == number] for number in range(1, count + 1)]
    normal = maps[~masks]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        rate = float((normal >= threshold).mean())
        points.append((rate, float(np.mean([(r >= threshold).mean() for r in regions]))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / limit


tiny = arrays(np.int8, (2, 6, 6), elements=st.integers(0, 5))
binary = arrays(np.bool_, (2, 6, 6))


@settings(max_examples=60, deadline=None)
@given(tiny, binary)
def test_exact_two_pass_and_brute_force_agree(maps, masks):
    maps = maps.astype(np.float32)
    found = pixel_metrics(maps, masks, limits=LIMITS)
    again = pixel_metrics(maps, masks, limits=LIMITS, mode="two_pass")
    for name, value in found.items():
        if name != "why":
            assert again[name] == pytest.approx(value, abs=1e-12)
    if masks.any() and not masks.all():
        for limit in LIMITS:
            expected = brute_force(maps, masks, limit)
            assert found[limit_key(limit)] == pytest.approx(expected, abs=1e-12)


def drawn(seed, count=4, side=12):
    rng = np.random.default_rng(seed)
    masks = rng.random((count, side, side)) < 0.2
    masks[0] = False
    return rng.normal(size=(count, side, side)).astype(np.float32) + masks, masks


def figures(found):
    return {k: v for k, v in found.items() if k not in ("why", "f1max_threshold", "bounds")}


@given(st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_monotone_maps_and_the_order_of_images_change_nothing(seed):
    maps, masks = drawn(seed)
    usual = figures(pixel_metrics(maps, masks))
    ranks = np.unique(maps, return_inverse=True)[1].reshape(maps.shape).astype(np.float32)
    assert figures(pixel_metrics(ranks, masks)) == pytest.approx(usual, abs=1e-12)
    assert figures(pixel_metrics(2 * maps.astype(np.float64) + 1, masks)) == pytest.approx(
        usual, abs=1e-6
    )
    assert figures(pixel_metrics(maps[::-1], masks[::-1])) == pytest.approx(usual, abs=1e-12)


def test_a_quiet_good_image_leaves_ap_and_f1_and_rescales_the_rate():
    maps, masks = drawn(1)
    usual = pixel_metrics(maps, masks)
    more = np.concatenate([maps, np.full((1, 12, 12), maps.min() - 1, np.float32)])
    found = pixel_metrics(more, np.concatenate([masks, np.zeros((1, 12, 12), bool)]))
    assert found["ap"] == pytest.approx(usual["ap"], abs=1e-12)
    assert found["f1max"] == pytest.approx(usual["f1max"], abs=1e-12)
    assert found["aupro_30"] > usual["aupro_30"]


def test_one_equal_region_an_image_at_limit_one_is_pixel_auroc():
    rng = np.random.default_rng(0)
    masks = np.zeros((5, 16, 16), bool)
    masks[:, 4:8, 4:8] = True
    maps = rng.normal(size=masks.shape).astype(np.float32)
    found = pixel_metrics(maps, masks, limits=(1.0,))
    assert found["aupro_100"] == pytest.approx(found["auroc"], abs=1e-12)


def test_corner_touching_squares_are_one_region():
    mask = np.zeros((6, 6), bool)
    mask[1:3, 1:3] = mask[3:5, 3:5] = True
    assert region_labels(mask)[0] == 1


@pytest.mark.parametrize("limit", LIMITS)
def test_defined_answers(limit):
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 2:5, 2:5] = True
    share = float(masks.mean())
    key = limit_key(limit)
    perfect = pixel_metrics(masks.astype(np.float32), masks, limits=(limit,))
    assert (perfect["auroc"], perfect["ap"], perfect["f1max"], perfect[key]) == (1, 1, 1, 1)
    constant = pixel_metrics(np.ones(masks.shape), masks, limits=(limit,))
    assert constant["auroc"] == 0.5
    assert constant["ap"] == pytest.approx(share)
    assert constant["f1max"] == pytest.approx(2 * share / (1 + share))
    assert constant[key] == pytest.approx(limit / 2)
    inverted = pixel_metrics(-masks.astype(np.float32), masks, limits=(limit,))
    assert (inverted["auroc"], inverted["ap"]) == (0, pytest.approx(share))
    nothing = pixel_metrics(np.ones(masks.shape), np.zeros(masks.shape, bool), limits=(limit,))
    assert nothing["auroc"] is nothing["ap"] is nothing[key] is None
    assert nothing["why"]["auroc"] == "no defect pixel"
    everything = pixel_metrics(np.ones(masks.shape), np.ones(masks.shape, bool), limits=(limit,))
    assert everything["auroc"] is everything[key] is None
    assert everything["ap"] is everything["f1max"] is None
    assert everything["why"]["ap"] == "no normal pixel"


def filled(maps, masks, groups, **keys):
    metric = PixelMetrics(**keys)
    for anomaly_map, mask, group in zip(maps, masks, groups, strict=True):
        metric.update(anomaly_map, mask, group=group)
    return metric


@pytest.mark.parametrize("mode", ["exact", "two_pass", "histogram"])
def test_merged_halves_equal_the_whole_and_subsets_equal_their_own_run(mode):
    maps, masks = drawn(3)
    groups = ["good", "hole", "hole", "dent"]
    whole = filled(maps, masks, groups, mode=mode)
    half = pickle.loads(pickle.dumps(filled(maps[2:], masks[2:], groups[2:], mode=mode)))
    merged = filled(maps[:2], masks[:2], groups[:2], mode=mode)
    merged.merge(half)
    assert merged.compute() == whole.compute()
    subset = filled(maps[:3], masks[:3], groups[:3], mode=mode)
    assert whole.compute(groups={"good", "hole"}) == subset.compute()


def test_auto_goes_over_to_files_and_stays_exact():
    maps, masks = drawn(5)
    small = filled(maps, masks, ["good"] * 4, max_memory=600)
    assert small._folder is not None
    assert small.compute() == filled(maps, masks, ["good"] * 4).compute()


def test_a_defective_image_without_a_mask_is_left_out_and_told():
    maps, masks = drawn(7)
    metric = filled(maps, masks, ["good"] * 4)
    metric.update(maps[0] + 9, None, group="hole")
    found = metric.compute()
    assert figures(found) == figures(pixel_metrics(maps, masks))
    assert "1 defective images without a mask" in found["why"]["excluded"]


def test_a_score_that_is_not_finite_names_the_image():
    metric = PixelMetrics()
    with pytest.raises(UserError, match=r"a/b\.png"):
        metric.update(np.full((2, 2), np.nan), np.zeros((2, 2), bool), name="a/b.png")
    with pytest.raises(UserError, match="differ in size"):
        metric.update(np.zeros((2, 3)), np.zeros((2, 2), bool))
