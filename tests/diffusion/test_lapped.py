"""The lapped transform: orthonormal, and without the edges of blocks."""

from __future__ import annotations

import pytest
import torch

from adbench.diffusion.latent.lapped import CELL, lapped, lapped_rows, unlapped
from tests.diffusion.test_latent import drawn


def test_rows_are_orthonormal_to_one_another_and_to_their_neighbours():
    rows = lapped_rows()
    one = torch.eye(CELL, dtype=torch.float64)
    torch.testing.assert_close(rows @ rows.T, one, rtol=0, atol=1e-12)
    beside = rows[:, CELL:] @ rows[:, :CELL].T  # the overlap of a cell with the next
    torch.testing.assert_close(beside, torch.zeros_like(one), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 40), (64, 24)])
def test_nothing_is_lost_and_nothing_is_redundant(height, width):
    image = drawn(2, 3, height, width).double()
    found = lapped(image)
    assert found.shape == (2, 192, height // 8, width // 8)
    assert found.numel() == image.numel()
    torch.testing.assert_close(unlapped(found), image, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.square().sum(), image.square().sum())


def test_a_cell_reaches_four_pixels_into_its_neighbours_and_fades():
    one = torch.zeros(1, 64, 5, 5, dtype=torch.float64)
    one[0, 0, 2, 2] = 1.0  # the first coefficient of the cell in the middle
    picture = unlapped(one)[0, 0]
    touched = picture.abs() > 1e-12
    rows = touched.any(1).nonzero().flatten()
    assert (int(rows.min()), int(rows.max())) == (12, 27)
    profile = picture[:, 20].abs()
    assert profile[12] < 0.3 * profile[19]
    assert profile[27] < 0.3 * profile[20]
