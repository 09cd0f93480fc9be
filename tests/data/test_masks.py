"""Which values of a mask are defect: all but zero, or what lies above half where edges are soft."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adbench.data.check import check_samples, told
from adbench.data.images import _is_soft, open_mask, read_defect
from adbench.data.layouts import get_layout
from tests.data import trees


def disc(side: int = 256, radius: float = 11.0) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return (y - side * 0.4) ** 2 + (x - side * 0.35) ** 2 <= radius**2


def drawn_soft(scale: int) -> np.ndarray:
    """A disc with grey edges: drawn at ``scale`` times its size and averaged."""
    large = disc(256 * scale, 11.0 * scale).astype(np.uint8) * 255
    return cv2.resize(large, (256, 256), interpolation=cv2.INTER_AREA)


def saved(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("quality", [30, 75, 95, 100])
def test_a_jpeg_keeps_the_area_that_was_drawn(tmp_path, quality):
    pixels = disc().astype(np.uint8) * 255
    path = saved(tmp_path / "m.jpg", pixels, quality=quality)
    assert (np.asarray(Image.open(path)) > 0).sum() > 1.05 * disc().sum() or quality == 100
    assert abs(int(read_defect(path).sum()) - int(disc().sum())) <= 2
    with Image.open(path) as image:
        again = saved(tmp_path / "m.png", np.asarray(image))
    if quality < 100:
        assert np.array_equal(read_defect(again), read_defect(path))


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_grey_edges_are_cut_at_half(tmp_path, scale):
    pixels = drawn_soft(scale)
    mask = open_mask(saved(tmp_path / "m.png", pixels))
    assert mask.soft
    assert np.array_equal(mask.defect, pixels > 127.5)


def test_the_range_of_a_soft_mask_is_its_own(tmp_path):
    pixels = (drawn_soft(8) // 2 + 20).astype(np.uint8)  # 20..147
    mask = open_mask(saved(tmp_path / "m.png", pixels))
    assert np.array_equal(mask.defect, pixels > (20 + 147) / 2)


def patches(values: list[int], side: int = 6) -> np.ndarray:
    pixels = np.zeros((64, 64), np.uint8)
    for number, value in enumerate(values):
        row, column = divmod(number, 7)
        pixels[row * 9 : row * 9 + side, column * 9 : column * 9 + side] = value
    return pixels


@pytest.mark.parametrize(
    "values",
    [
        [1],
        [255],
        [1, 2, 3],
        list(range(1, 13)),
        [50, 100, 150, 200, 250],
        [255, 254, 253],
        [1, 255],
    ],
)
@pytest.mark.parametrize("side", [1, 3, 6])
def test_class_ids_count_whatever_they_are(tmp_path, values, side):
    pixels = patches(values, side)
    mask = open_mask(saved(tmp_path / "m.png", pixels))
    assert not mask.soft
    assert np.array_equal(mask.defect, pixels > 0)


def test_nested_classes_are_no_slope(tmp_path):
    pixels = np.zeros((64, 64), np.uint8)
    for ring, value in enumerate((60, 120, 180, 240)):
        pixels[4 * ring + 4 : 60 - 4 * ring, 4 * ring + 4 : 60 - 4 * ring] = value
    assert open_mask(saved(tmp_path / "m.png", pixels)).defect.sum() == 56 * 56


@given(st.sets(st.integers(1, 63), min_size=1, max_size=31), st.integers(1, 5))
def test_small_ids_are_never_soft(values, side):
    pixels = np.random.default_rng(side).choice([0, *values], (20, 20)).astype(np.uint8)
    assert not _is_soft(pixels, is_jpeg=False)


def test_the_largest_channel_of_a_coloured_mask_counts(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:2, :, 0], pixels[2:4, :, 1] = 128, 64
    assert read_defect(saved(tmp_path / "m.png", pixels)).sum() == 32


def test_sixteen_bit_masks(tmp_path):
    soft = cv2.GaussianBlur(disc().astype(np.float32) * 65535, (9, 9), 0).astype(np.uint16)
    assert np.array_equal(read_defect(saved(tmp_path / "s.png", soft)), soft > soft.max() / 2)
    hard = disc().astype(np.uint16) * 300
    assert np.array_equal(read_defect(saved(tmp_path / "h.png", hard)), disc())


def test_data_check_tells_of_soft_masks_in_one_line(tmp_path):
    root = trees.mvtec(tmp_path)
    for number in range(2):
        trees.image(root / f"bottle/test/broken/{number:03d}.png", size=(256, 256))
        saved(root / f"bottle/ground_truth/broken/{number:03d}_mask.png", drawn_soft(4))
    found = told(check_samples(get_layout("mvtec").read(root, "bottle"), full=True))
    (line,) = [text for level, text in found if "soft edges" in text]
    assert line.startswith("2 files in ")
    assert "000_mask.png, 001_mask.png" in line
