"""Overlays: the photograph where nothing is wrong, one scale, titles whole, names apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adbench.data.sample import Sample
from adbench.training.heatmaps import heat_colours, overlaid, panel
from adbench.training.pictures import picture_names

SIDE = 32


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)


def test_the_photograph_is_unchanged_below_the_threshold(image):
    anomaly_map = np.full((SIDE, SIDE), 0.4)
    anomaly_map[8:16, 8:16] = 0.9
    drawn = overlaid(image, anomaly_map, 0.5, 1.0)
    hot = anomaly_map > 0.5
    assert (drawn[~hot] == image[~hot]).all()
    assert (drawn[hot] != image[hot]).any()


def test_equal_values_have_equal_colours_whatever_else_is_in_the_picture():
    calm, loud = np.full((4, 4), 0.3), np.full((4, 4), 0.3)
    loud[0, 0] = 0.99
    assert (heat_colours(calm, 0, 1)[1:] == heat_colours(loud, 0, 1)[1:]).all()


def test_the_colour_bar_marks_the_threshold(image):
    maps = {"anomaly": np.zeros((SIDE, SIDE))}
    scale = {"anomaly": (0.0, 1.0)}
    plain = panel(image, maps, scale, None, "t", None)
    marked = panel(image, maps, scale, None, "t", 0.5)
    changed = np.argwhere((plain != marked).any(axis=2))
    assert len(changed)
    assert changed[:, 1].min() >= 2 * SIDE  # right of photograph and overlay: in the bar
    assert (marked[changed[0][0], changed[0][1]] == 255).all()


def test_a_long_title_is_broken_not_cut(image):
    maps, scale = {"anomaly": np.zeros((SIDE, SIDE))}, {"anomaly": (0.0, 1.0)}
    heights = [
        panel(image, maps, scale, None, "x" * length).shape[0] - SIDE for length in (3, 40, 400)
    ]
    assert heights[0] < heights[1] < heights[2]


def test_pictures_of_one_stem_get_names_of_their_own():
    root = Path("/data")
    places = [
        ("nut", "nut/test/spot/000.png"),
        ("nut", "nut/test/crack/000.png"),
        ("bolt", "bolt/test/spot/000.png"),
        ("nut", "nut/test/spot/000.jpg"),
        ("nut", "nut/test/spot_000.png"),
    ]
    samples = [
        Sample(root / path, 1, category, "spot", "test", root=root) for category, path in places
    ]
    names = picture_names(samples)
    assert len(set(names)) == len(names)
    assert names[0] == "nut_spot_000.png"
    assert all("/" not in name and name.endswith(".png") for name in names)
