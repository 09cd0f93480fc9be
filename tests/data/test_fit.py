"""Pictures come to the working size and maps come back, each way by one rule."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from adbench.data.fit import fitted, fitted_mask, placement, unfitted

sides = st.integers(1, 60)
sizes = st.tuples(sides, sides)


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@given(sizes, sizes)
def test_squash_is_one_resize_whatever_the_shape(original, size):
    image = noise(original)
    shrink = original[0] >= size[0] and original[1] >= size[1]
    method = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    expected = image if original == size else cv2.resize(image, size[::-1], interpolation=method)
    assert np.array_equal(fitted(image, size), expected)


@given(sizes, sizes)
def test_squashed_maps_come_back_bilinearly(original, size):
    working = np.random.default_rng(0).random(size, dtype=np.float32)
    tensor = torch.from_numpy(working)[None, None]
    grown = functional.interpolate(tensor, size=original, mode="bilinear", align_corners=False)
    expected = working if original == size else grown[0, 0].numpy()
    assert np.array_equal(unfitted(working, original), expected)


@given(sizes, sizes, st.sampled_from(["squash", "pad", "crop"]))
def test_sizes_are_those_asked_for(original, size, fit):
    source, target = placement(original, size, fit)
    for box, frame in ((source, original), (target, size)):
        assert 0 <= box.top <= box.top + box.height <= frame[0]
        assert 0 <= box.left <= box.left + box.width <= frame[1]
        assert box.height > 0 < box.width
    assert fitted(noise(original), size, fit).shape == (*size, 3)
    assert fitted_mask(np.ones(original, bool), size, fit).shape == size
    back = unfitted(np.random.default_rng(0).random(size, dtype=np.float32), original, fit)
    assert back.shape == original
    assert np.isfinite(back).all()


@given(st.integers(8, 60), st.integers(8, 60), st.sampled_from(["pad", "crop"]))
def test_shapes_are_kept_to_a_pixel(height, width, fit):
    source, target = placement((height, width), (32, 32), fit)
    apart = source.height * target.width - source.width * target.height
    assert abs(apart) <= max(source.height, source.width, target.height, target.width)


def test_pad_repeats_the_border_and_is_cut_off_again():
    image = np.zeros((10, 40, 3), np.uint8)
    image[0], image[-1], image[1:-1] = 10, 20, 200
    found = fitted(image, (40, 40), "pad")
    assert np.array_equal(found[15:25], image)
    assert (found[:15] == 10).all()
    assert (found[25:] == 20).all()
    working = np.full((40, 40), 9.0, np.float32)
    inside = np.random.default_rng(0).random((10, 40), dtype=np.float32)
    working[15:25] = inside
    assert np.array_equal(unfitted(working, (10, 40), "pad"), inside)


def test_crop_takes_the_middle_and_finds_nothing_outside():
    image = noise((10, 40))
    assert np.array_equal(fitted(image, (10, 10), "crop"), image[:, 15:25])
    working = np.random.default_rng(0).random((10, 10), dtype=np.float32) + 3
    full = unfitted(working, (10, 40), "crop")
    assert np.array_equal(full[:, 15:25], working)
    assert (full[:, :15] == working.min()).all()
    assert (full[:, 25:] == working.min()).all()


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_a_spot_comes_back_where_it_was(fit):
    mask = np.zeros((60, 200), bool)
    mask[20:40, 90:110] = True
    working = fitted_mask(mask, (64, 64), fit).astype(np.float32)
    back = unfitted(working, mask.shape, fit) > 0.5
    assert (back & mask).sum() / (back | mask).sum() > 0.6


def test_extreme_shapes():
    for fit in ("squash", "pad", "crop"):
        assert fitted(noise((40, 6000)), (256, 256), fit).shape == (256, 256, 3)
        assert unfitted(np.ones((256, 256), np.float32), (40, 6000), fit).shape == (40, 6000)
