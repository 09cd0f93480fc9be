"""Files become pixels by one rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from adbench.data.images import (
    image_size,
    images_in,
    read_image,
    read_mask,
    read_values,
)
from adbench.errors import UserError


def _noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _saved(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_colour_is_read_as_rgb(tmp_path):
    pixels = _noise(5, 7)
    assert np.array_equal(read_image(_saved(tmp_path / "a.png", pixels)), pixels)


def test_gray_becomes_three_equal_channels(tmp_path):
    pixels = _noise(5, 7)[..., 0]
    image = read_image(_saved(tmp_path / "a.bmp", pixels))
    assert np.array_equal(image, np.repeat(pixels[..., None], 3, axis=2))


def test_sixteen_bits_keep_their_high_byte(tmp_path):
    pixels = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16) + 255
    for name in ("a.png", "a.tif"):
        assert np.array_equal(read_image(_saved(tmp_path / name, pixels))[..., 1], pixels >> 8)


def test_alpha_is_dropped_and_colour_kept(tmp_path):
    pixels = _noise(5, 7, 4)
    pixels[..., 3] = 0
    assert np.array_equal(read_image(_saved(tmp_path / "a.png", pixels)), pixels[..., :3])


def test_palette_is_resolved(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_float_image_is_refused(tmp_path):
    path = _saved(tmp_path / "a.tif", np.ones((4, 4), np.float32))
    with pytest.raises(UserError, match=r"a\.tif.*8 or 16 bits"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_turns_image_mask_and_size(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 8:] = 255
    path = _saved(tmp_path / f"a.{suffix}", pixels, exif=exif)
    turned = {1: pixels, 3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1), 8: np.rot90(pixels)}
    expected = turned[orientation]
    assert image_size(path) == expected.shape[:2]
    image = read_image(path)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 3
    if suffix == "png":
        assert np.array_equal(read_mask([path], expected.shape[:2]), expected[..., 0] > 0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_truncated_file_is_named(tmp_path, suffix):
    path = _saved(tmp_path / f"cut.{suffix}", _noise(64, 64))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=rf"cut\.{suffix}"):
        read_image(path)


def test_text_named_png_is_not_an_image(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    for read in (read_image, image_size):
        with pytest.raises(UserError, match=r"a\.png: it is not an image"):
            read(tmp_path / "a.png")


def test_absent_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png does not exist"):
        read_image(tmp_path / "gone.png")


def test_images_are_found_by_suffix_whatever_its_case(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.JPEG", "._a.jpg", "Thumbs.db", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in images_in(tmp_path)] == ["a.jpg", "b.PNG", "c.JPEG"]
    assert images_in(tmp_path / "absent") == []


def test_any_nonzero_mask_value_is_defect(tmp_path):
    values = np.array([[0, 1, 2], [255, 0, 128]], np.uint8)
    for name, pixels in (
        ("gray.png", values),
        ("wide.png", values.astype(np.uint16)),
        ("red.png", np.stack([values, 0 * values, 0 * values], axis=2)),
        ("one.png", values > 0),
    ):
        mask = read_mask([_saved(tmp_path / name, pixels)], (2, 3))
        assert mask.dtype == bool
        assert np.array_equal(mask, values > 0), name


def test_masks_are_united_and_none_is_empty(tmp_path):
    first, second = np.zeros((2, 4, 4), np.uint8)
    first[0, 0], second[3, 3] = 7, 255
    paths = [_saved(tmp_path / "0.png", first), _saved(tmp_path / "1.png", second)]
    assert np.array_equal(read_mask(paths, (4, 4)), (first + second) > 0)
    assert not read_mask([], (4, 4)).any()


def test_mask_of_another_size_names_both_sizes(tmp_path):
    path = _saved(tmp_path / "m.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(UserError, match=r"m\.png is 6x4 .* 4x6"):
        read_mask([path], (6, 4))


def test_channel_values_are_read_as_they_stand(tmp_path):
    values = np.array([[0, 254]], np.uint8)
    gray = _saved(tmp_path / "g.png", values)
    colour = _saved(tmp_path / "c.png", np.repeat(values[..., None], 3, axis=2))
    assert read_values(gray).tolist() == read_values(colour).tolist() == [[0, 254]]
    with pytest.raises(UserError, match="coloured"):
        read_values(_saved(tmp_path / "d.png", _noise(2, 2)))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_format_whose_reader_starts_programs_is_never_opened(tmp_path, suffix, monkeypatch):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: started.append(a))
    path = tmp_path / f"part{suffix}"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    for read in (read_image, image_size):
        with pytest.raises(UserError, match="not an image"):
            read(path)
    assert not started
