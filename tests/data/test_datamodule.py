"""Splits, order and caching."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
            rng = np.random.default_rng([len(split), abs(label), number])
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


@st.composite
def tiny_sets(draw):
    """Samples without files: training, validation and test pictures of one or two categories."""
    samples = []
    for category in draw(st.sampled_from([["a"], ["a", "b"]])):
        for split, label in (("train", 0), ("train", 1), ("val", 0), ("test", 0), ("test", 1)):
            for number in range(draw(st.integers(0, 4))):
                path = Path(f"/{category}/{split}/{label}/{number}.png")
                samples.append(Sample(path, label, category, "x", split, root=Path("/")))
    return samples


@given(
    tiny_sets(),
    st.floats(0, 0.99),
    st.none() | st.integers(1, 6),
    st.none() | st.integers(1, 6),
    st.integers(0, 5),
    st.booleans(),
)
def test_splits_of_tiny_sets(samples, hold_out, shots, limit, seed, needs_training):
    normals = [s for s in samples if s.split == "train" and s.label == 0]
    try:
        splits = split_samples(
            samples,
            hold_out=hold_out,
            shots=shots,
            limit=limit,
            seed=seed,
            needs_training=needs_training,
        )
    except UserError as error:
        message = str(error)
        assert (
            ("no normal training image" in message and not normals and needs_training)
            or ("no image to test on" in message and not normals)
            or ("only" in message and shots is not None)
        )
        return
    assert bool(splits.train) == bool(normals)
    assert {s.category for s in splits.train} == {s.category for s in normals} or limit is not None
    names = [[s.relative for s in part] for part in (splits.train, splits.val, splits.test)]
    flat = [name for part in names for name in part]
    assert len(set(flat)) == len(flat)
    assert all(len(part) <= (limit or len(samples)) for part in names)
    assert all(sample in normals for sample in splits.train)
    if limit is None:
        assert len(splits.test) == sum(s.split == "test" for s in samples)
        assert len(splits.train) <= len(normals)
    if hold_out == 0 and shots is None and limit is None:
        assert len(splits.train) == len(normals)


def test_pictures_without_training_images_can_be_scored(tmp_path):
    samples = made(tmp_path, {("test", -1): 3})
    with pytest.raises(UserError, match="no normal training image"):
        split_samples(samples)
    data = DataModule(split_samples(samples, needs_training=False), image_size=(16, 16))
    assert data.train_samples == data.val_samples == []
    (batch,) = data.test_batches()
    assert batch.label.tolist() == [-1, -1, -1]
    assert list(data.train_batches()) == []


def test_the_datamodule_fits_and_says_how(tmp_path):
    samples = made(tmp_path, COUNTS)
    data = module(samples, fit="pad", bits=12)
    assert (data.fit, data.bits) == ("pad", 12)
    image = data.test_images(torch.tensor([0]))[0]  # 20 x 30: two rows and three are border
    assert torch.equal(image[:, 0], image[:, 1])
    assert not torch.equal(image, module(samples).test_images(torch.tensor([0]))[0])
    assert (data.without_test().fit, data.without_test().bits) == ("pad", 12)


def test_values_lie_in_the_unit_range(tmp_path):
    batch = next(module(made(tmp_path, COUNTS)).train_batches())
    assert batch.image.dtype == torch.float32
    assert 0 <= batch.image.min() <= batch.image.max() <= 1
    assert batch.mask is None
