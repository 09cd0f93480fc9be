"""Copies in other light and dirty backgrounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from adbench.config.schema import LightKeys
from adbench.config.typed import from_mapping
from adbench.data.batch import pictures
from adbench.data.changes import DirtyBackground, Light
from adbench.errors import UserError
from adbench.training.evaluate import Scored
from adbench.training.pictures import HeatMaps
from tests.data.test_datamodule import COUNTS, made, module


def test_the_photograph_itself_stays_and_copies_differ(tmp_path):
    plain = module(made(tmp_path, COUNTS))
    data = module(made(tmp_path, COUNTS), copies=2, train_changes=[Light(0.3, 0.2)])
    count = len(plain.train_samples)
    assert len(data.train_samples) == 3 * count
    index = torch.tensor([1, 1 + count, 1 + 2 * count])
    found = data.train_images(index)
    assert torch.equal(found[0], plain.train_images(index[:1])[0])
    assert not torch.equal(found[1], found[0])
    assert not torch.equal(found[1], found[2])
    assert {data.train_samples[i].image for i in index.tolist()} == {plain.train_samples[1].image}


def test_a_copy_is_the_same_whatever_the_batch_and_only_training_images_have_copies(tmp_path):
    samples = made(tmp_path, COUNTS)
    data = module(samples, copies=1, train_changes=[Light(0.3, 0.2)])
    whole = torch.cat([batch.image for batch in data.train_batches(batch_size=7)])
    for position in (0, 17, 31):
        assert torch.equal(data.train_images(torch.tensor([position]))[0], whole[position])
    plain = module(samples)
    for found, expected in zip(data.test_batches(), plain.test_batches(), strict=True):
        assert torch.equal(found.image, expected.image)
    for found, expected in zip(data.val_batches(), plain.val_batches(), strict=True):
        assert torch.equal(found.image, expected.image)


def test_an_epoch_visits_every_copy_once(tmp_path):
    data = module(made(tmp_path, COUNTS), copies=2, train_changes=[Light(0.3, 0.2)])
    seen = torch.cat([batch.index for batch in data.train_dataloader()])
    assert sorted(seen.tolist()) == list(range(48))


def test_light_is_a_factor_on_mean_and_on_differences(tmp_path):
    sample = made(tmp_path, {("train", 0): 1})[0]
    image = 0.4 + 0.2 * torch.rand((3, 9, 9), generator=torch.Generator().manual_seed(0))
    changed = Light(0.3, 0.2, seed=5)(image, sample, 1)
    bright = changed.mean() / image.mean()
    assert 0.7 <= bright <= 1.3
    assert 0.8 <= changed.std() / image.std() / bright <= 1.2
    flat = torch.full((3, 4, 4), 0.5)
    assert Light(0.0, 0.2)(flat, sample, 1).allclose(flat)


@pytest.mark.parametrize(("jitter", "noise"), [(0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
def test_a_dirty_background_leaves_the_object(tmp_path, jitter, noise):
    sample = made(tmp_path, {("train", 0): 1})[0]
    kept = np.zeros((8, 8), dtype=bool)
    kept[2:6, 2:6] = True
    change = DirtyBackground(jitter, noise, lambda picture: kept)
    image = torch.full((3, 8, 8), 0.5)
    changed = change(image, sample, 0)
    mask = torch.from_numpy(kept)
    assert torch.equal(changed[:, mask], image[:, mask])
    assert (changed[:, ~mask] != 0.5).all()
    assert torch.equal(changed, change(image, sample, 0))
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_heat_maps_show_what_was_scored(tmp_path):
    dirty = DirtyBackground(0.3, 0.2, lambda picture: np.zeros(picture.shape[:2], dtype=bool))
    data = module(made(tmp_path, COUNTS), changes=[dirty])
    drawn = HeatMaps(nn.Identity(), data, torch.device("cpu"), "all")
    (batch, *_) = data.test_batches(batch_size=4)
    for row in range(4):
        scored = Scored(data.test_samples[row], 0.0, np.zeros((16, 16), np.float32))
        assert np.array_equal(drawn._pixels(scored), pictures(batch.image)[row])


def test_impossible_strengths_are_refused():
    with pytest.raises(UserError, match=r"train\.light\.brightness=1\.5"):
        from_mapping(LightKeys, {"brightness": 1.5}, "train.light")
    with pytest.raises(UserError, match="copies=-1"):
        from_mapping(LightKeys, {"copies": -1}, "train.light")
