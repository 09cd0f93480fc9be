"""Resize and blur as one matrix per axis equal the two done one after the other."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from adbench.backbones.maps import resize_matrix, smooth_upsample, working_picture
from adbench.data.fit import fitted


@pytest.mark.parametrize("size", [(48, 48), (16, 20), (7, 90), (5, 6)])
def test_equals_bilinear_resize_then_scipy_gaussian(size):
    scores = torch.rand(3, 1, 6, 7, dtype=torch.float64)
    large = F.interpolate(scores, size=size, mode="bilinear", align_corners=False).numpy()
    wanted = np.stack([gaussian_filter(m, sigma=4, mode="reflect") for m in large[:, 0]])
    np.testing.assert_allclose(smooth_upsample(scores, size)[:, 0].numpy(), wanted, atol=1e-12)


def test_constant_map_stays_constant():
    scores = torch.full((1, 1, 4, 5), 0.7)
    assert torch.allclose(smooth_upsample(scores, (33, 21)), torch.tensor(0.7), atol=1e-6)


def test_zero_sigma_is_the_resize_alone():
    scores = torch.rand(2, 1, 3, 4)
    wanted = F.interpolate(scores, size=(9, 9), mode="bilinear", align_corners=False)
    assert torch.allclose(smooth_upsample(scores, (9, 9), 0.0), wanted, atol=1e-6)


@pytest.mark.shared
def test_matches_released_glass_maps(shared):
    judge = np.load(shared / "judges/methods/glass/score.npz")
    grid = torch.from_numpy(judge["patch_scores"]).reshape(3, 1, 6, 6)
    for name, size in (("48x48", (48, 48)), ("16x20", (16, 20))):
        ours = smooth_upsample(grid, size)[:, 0].numpy()
        np.testing.assert_allclose(ours, judge[f"segmentation_{name}"], atol=1e-5)
    np.testing.assert_allclose(grid.amax((1, 2, 3)).numpy(), judge["image_score"], atol=1e-6)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("length", "target"), [(6, 48), (7, 5), (4, 4), (1, 9), (5, 1)])
def test_resize_matrix_is_the_interpolation_of_one_axis(length, target, aligned):
    values = torch.rand(1, 1, length, dtype=torch.float64)
    wanted = F.interpolate(values, size=target, mode="linear", align_corners=aligned)
    found = resize_matrix(length, target, aligned=aligned) @ values[0, 0]
    torch.testing.assert_close(found, wanted[0, 0], atol=1e-14, rtol=0)
    rows = resize_matrix(length, target, aligned=aligned).sum(1)
    torch.testing.assert_close(rows, torch.ones_like(rows))


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (320, 427, (256, 256)),
        (64, 64, (64, 64)),
        (33, 65, (32, 32)),
        (50, 40, (64, 96)),
        (50, 200, (64, 96)),
        (7, 900, (5, 16)),
    ],
)
def test_a_full_picture_becomes_what_training_made_of_its_file(height, width, size):
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    found = working_picture(image, size)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(found - fitted(pixels, size)).max() <= 1.01  # rounded to 256 levels there
    assert np.abs(found - fitted(pixels, size)).mean() < 0.3


def test_a_picture_is_looked_at_anew_each_time():
    image = torch.rand(1, 3, 40, 40)
    first = working_picture(image, (16, 16))
    image.mul_(0.5)
    assert torch.allclose(working_picture(image, (16, 16)), first * 0.5)
