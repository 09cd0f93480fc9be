"""Pasted pairs, their score, and what is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adbench.methods.gaa.ars import Judged, judged, kept, region_score
from adbench.methods.gaa.masks import Planner
from adbench.methods.gaa.pairs import PairSet, altered
from adbench.methods.gaa.paste import Paster, feathered
from adbench.methods.gaa.rules import Rule
from adbench.methods.gaa.settings import FilterKeys, GenerateKeys, MaskKeys
from adbench.methods.gaa.unet import LocalisationNet, focal_loss
from tests.methods.gaa.test_masks import SIZE, disc, real_of


@pytest.mark.parametrize("blend", ["feather", "poisson"])
def test_a_pasted_pair_leaves_the_canvas_alone_outside(blend):
    real = real_of(disc(20, 20, 6), disc(30, 40, 8))
    real.images = [np.full_like(i, 220) for i in real.images]
    rules = {"hole": Rule("inside", 1, 90.0)}
    planner = Planner(real, rules, [np.ones(SIZE, np.uint8)], MaskKeys(), 0, outline=False)
    paste = Paster(real, GenerateKeys(blend=blend))
    canvas = np.full((*SIZE, 3), 60, np.uint8)
    canvas[::2] = 70
    for number in range(10):
        plan, labels = planner.plan("hole", number)
        made = paste(plan, canvas, labels)
        away = feathered(labels > 0, 2) == 0
        assert (made[away] == canvas[away]).all()


def test_pasted_pixels_are_those_of_the_real_defect():
    real = real_of(disc(20, 20, 8))
    image = np.full((*SIZE, 3), 60, np.uint8)
    image[disc(20, 20, 8)] = (200, 30, 30)
    real.images = [image]
    rules = {"hole": Rule("inside", 1, 90.0)}
    keys = MaskKeys(combined=0.0)
    planner = Planner(real, rules, [np.ones(SIZE, np.uint8)], keys, 0, outline=False)
    canvas = np.full((*SIZE, 3), 60, np.uint8)
    for number in range(5):
        plan, labels = planner.plan("hole", number)
        made = Paster(real, GenerateKeys())(plan, canvas, labels).astype(int)
        assert np.abs(made[labels > 0].mean(0) - (200, 30, 30)).max() < 15


def test_the_region_score_is_the_mean_inside():
    mask = disc(20, 20, 5)
    assert region_score(np.full(SIZE, 3.0), mask) == 3.0
    values = np.random.default_rng(0).random(SIZE)
    assert region_score(values, np.ones(SIZE, bool)) == pytest.approx(values.mean())
    assert region_score(2 * values, mask) == pytest.approx(2 * region_score(values, mask))
    with pytest.raises(ValueError, match="empty"):
        region_score(values, np.zeros(SIZE, bool))


def worth(image, canvas, mask):
    flat = np.zeros(SIZE)
    return judged(image, canvas, mask, flat, flat, level=0.0, spread=1.0, visible=4.0)


def test_companions_see_what_the_score_cannot():
    canvas, mask = np.full((*SIZE, 3), 100, np.uint8), disc(30, 30, 6)
    same = worth(canvas, canvas, mask)
    assert (same.fill, same.out_px, same.moved, same.centred) == (0.0, 0.0, 0.0, False)
    inside = canvas.copy()
    inside[mask] += 50
    found = worth(inside, canvas, mask)
    assert (found.fill, found.out_px, found.moved, found.centred) == (1.0, 0.0, 1.0, True)
    beside = canvas.copy()
    beside[:8] += 50
    found = worth(beside, canvas, mask)
    assert found.fill == 0.0
    assert found.out_px > 1
    assert not found.centred


def of(z, out=0.0, fill=1.0):
    return Judged(z, z, 0.0, out, fill, 1.0, True)


def test_the_better_half_of_each_cluster_is_kept():
    pairs = [(0, of(z)) for z in (1, 2, 3, 4)] + [(1, of(z)) for z in (10, 20)]
    assert kept(pairs, FilterKeys()) == [False, False, True, True, False, True]
    assert kept(pairs, FilterKeys(score="none")) == [True] * 6
    dirty = [(0, of(9, out=8)), (0, of(3))]
    assert kept(dirty, FilterKeys()) == [False, True]
    assert kept(dirty, FilterKeys(score="ars")) == [True, False]
    empty = [(0, of(9, fill=0.1)), (0, of(3))]
    assert kept(empty, FilterKeys()) == [False, True]


def test_focal_loss_without_focus_is_cross_entropy():
    logits, mask = torch.randn(2, 2, 8, 8), torch.rand(2, 1, 8, 8) < 0.3
    wanted = torch.nn.functional.cross_entropy(logits, mask[:, 0].long())
    assert float(focal_loss(logits, mask, 0.0)) == pytest.approx(float(wanted), abs=1e-3)
    assert float(focal_loss(logits, mask, 2.0)) < float(wanted)


def test_the_localisation_network_keeps_the_size():
    assert LocalisationNet(4)(torch.rand(2, 3, 64, 96)).shape == (2, 2, 64, 96)


def test_types_are_drawn_alike_whatever_their_number():
    masks = [disc(20, 20, 5)] * 12
    pairs = PairSet([np.zeros((*SIZE, 3), np.uint8)] * 12, masks, ["a"] * 11 + ["b"])
    drawn = pairs.types[pairs.draw(4000, np.random.default_rng(0))]
    assert 0.45 < drawn.mean() < 0.55
    _, mask, kind = pairs.tensors(np.array([0, 11]))
    assert (mask[0, 0].numpy() == masks[0]).all()
    assert kind.tolist() == [0, 1]
    rng = np.random.default_rng(1)
    flipped = altered(mask.float().expand(-1, 3, -1, -1), mask, rng, 0.0, flips=True)
    assert ((flipped[0][:, :1] > 0.5) == flipped[1]).all()
