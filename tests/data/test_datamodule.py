"""Splits, order and caching."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adbench.data.cache import ImageCache
from adbench.data.datamodule import DataModule, SeededSampler, split_samples
from adbench.data.sample import Sample
from adbench.errors import UserError


def made(tmp_path, counts):
    samples = []
    for (split, label), count in counts.items():
        for number in range(count):
            folder = tmp_path / split / ("bad" if label else "good")
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{number:03d}.png"
            rng = np.random.default_rng([len(split), label, number])
            cv2.imwrite(str(path), rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
            defect = "bad" if label else "good"
            samples.append(Sample(path, label, "thing", defect, split, root=tmp_path))
    return samples


def module(samples, **keys):
    splits = split_samples(samples, hold_out=0.2)
    return DataModule(splits, image_size=(16, 16), batch_size=4, seed=3, **keys)


COUNTS = {("train", 0): 20, ("test", 0): 5, ("test", 1): 5}


def test_held_out_normals_are_disjoint_and_follow_the_seed(tmp_path):
    samples = made(tmp_path, COUNTS)
    first, again = (split_samples(samples, hold_out=0.2, seed=1) for _ in range(2))
    other = split_samples(samples, hold_out=0.2, seed=2)
    assert len(first.val) == 4
    assert not {s.image for s in first.val} & {s.image for s in first.train}
    assert first == again
    assert {s.image for s in other.val} != {s.image for s in first.val}


def test_a_data_set_with_its_own_validation_split_keeps_all_training_images(tmp_path):
    splits = split_samples(made(tmp_path, {**COUNTS, ("val", 0): 3}), hold_out=0.2)
    assert (len(splits.train), len(splits.val)) == (20, 3)


def test_shots_and_limit(tmp_path):
    samples = made(tmp_path, COUNTS)
    splits = split_samples(samples, hold_out=0.0, shots=4)
    assert len(splits.train) == 4
    limited = split_samples(samples, limit=4)
    assert len(limited.test) == 4
    assert {s.label for s in limited.test} == {0, 1}
    with pytest.raises(UserError, match="only 20 normal"):
        split_samples(samples, shots=21)


@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_is_a_permutation_fixed_by_seed_and_epoch(count, seed, epoch):
    sampler = SeededSampler(count, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(count))
    assert order == list(sampler)


def test_the_same_order_and_pixels_whatever_the_worker_count(tmp_path):
    samples = made(tmp_path, COUNTS)
    seen = []
    for workers in (0, 2):
        data = module(samples, workers=workers)
        batches = list(data.train_dataloader())
        seen.append((torch.cat([b.index for b in batches]), torch.cat([b.image for b in batches])))
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])


def test_the_last_partial_batch_is_kept(tmp_path):
    data = module(made(tmp_path, {**COUNTS, ("test", 1): 6}))
    assert [len(batch) for batch in data.test_batches()] == [4, 4, 3]


def test_training_code_receives_no_test_images(tmp_path):
    data = module(made(tmp_path, COUNTS)).without_test()
    assert data.test_samples == []
    assert list(data.test_batches()) == []
    assert len(list(data.train_batches())) == 4


def test_memory_map_equals_memory_and_follows_the_files(tmp_path):
    samples = made(tmp_path, COUNTS)
    inside = ImageCache(samples, (16, 16))
    mapped = ImageCache(samples, (16, 16), max_memory=0, folder=tmp_path / "cache")
    assert np.array_equal(inside.pixels, mapped.pixels)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    key = mapped.key()
    cv2.imwrite(str(samples[0].image), np.zeros((21, 30, 3), np.uint8))
    assert ImageCache(samples, (16, 16)).key() != key


def test_values_lie_in_the_unit_range(tmp_path):
    batch = next(module(made(tmp_path, COUNTS)).train_batches())
    assert batch.image.dtype == torch.float32
    assert 0 <= batch.image.min() <= batch.image.max() <= 1
    assert batch.mask is None
