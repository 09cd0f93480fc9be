"""One way to write a picture, one to lay several out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from adbench.runs.pictures import grid, write_png


def test_colours_come_back_as_they_were(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    write_png(tmp_path / "a.png", rgb)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], rgb)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_picture_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        write_png(tmp_path / "file" / "a.png", np.zeros((2, 2), np.uint8))


def test_the_last_row_of_a_grid_is_filled_with_white():
    tiles = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)]
    made = grid(tiles, 2)
    assert made.shape == (4, 6, 3)
    assert (made[:2, :3] == 10).all()
    assert (made[2:, :3] == 30).all()
    assert (made[2:, 3:] == 255).all()
