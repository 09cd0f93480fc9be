"""12 bits in files of 16 become grey levels, the same for a whole data set."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adbench.data.cache import ImageCache, resized_image
from adbench.data.check import check_samples, told
from adbench.data.depth import beyond_depth, found_depth
from adbench.data.images import image_size, peak_value, read_image
from adbench.data.sample import NORMAL, Sample
from adbench.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ADBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def deep(path: Path, largest: int, *, colour: bool = False) -> Path:
    """Write a 16-bit picture with values 0..largest, the largest in the corner."""
    shape = (6, 9, 3) if colour else (6, 9)
    pixels = np.random.default_rng(largest).integers(0, largest + 1, shape, dtype=np.uint16)
    pixels[0, 0] = largest
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def sample(path: Path, split: str = "train") -> Sample:
    return Sample(path, NORMAL, "part", "good", split, root=path.parent)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_upper_eight_of_the_bits_in_use_count(tmp_path, suffix, colour, bits):
    path = deep(tmp_path / f"a.{suffix}", 2**bits - 1, colour=colour)
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    stored = stored[..., ::-1] if colour else np.repeat(stored[..., None], 3, axis=2)
    image = read_image(path, bits)
    assert image.dtype == np.uint8
    assert np.array_equal(image, stored >> (bits - 8))
    assert image.max() == 255
    assert np.array_equal(read_image(path), stored >> 8)  # all 16 where nothing is known
    assert peak_value(path) == 2**bits - 1


def test_brighter_values_than_the_depth_are_clipped(tmp_path):
    path = deep(tmp_path / "a.png", 5000)
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(int)
    assert np.array_equal(read_image(path, 12)[..., 0], np.minimum(stored // 16, 255))


def test_eight_bit_files_have_no_depth(tmp_path):
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    assert peak_value(path) is None
    assert np.array_equal(read_image(path, 12), pixels)
    assert found_depth([sample(path)]) is None


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=5))
def test_the_smallest_depth_that_holds_every_value(peaks):
    from adbench.data import depth

    found = None
    original = depth._peaks
    try:
        depth._peaks = lambda paths: list(peaks)
        found = found_depth([sample(Path(f"{i}.png")) for i in range(len(peaks))])
    finally:
        depth._peaks = original
    assert found in (8, 10, 12, 14, 16)
    assert max(peaks) < 2**found
    assert found == 8 or max(peaks) >= 2 ** (found - 2)


def test_depth_comes_from_training_pictures_and_is_said_where_others_exceed_it(tmp_path):
    samples = [
        sample(deep(tmp_path / "0.tif", 900)),
        sample(deep(tmp_path / "1.tif", 4000)),
        sample(deep(tmp_path / "2.tif", 9000), "test"),
    ]
    assert found_depth(samples) == 12
    assert beyond_depth(samples, 12) == samples[2:]
    lines = [text for _, text in told(check_samples(samples, full=True))]
    assert any("12 bits are used" in line for line in lines)
    assert any(line.startswith(str(samples[2].image)) and "clipped" in line for line in lines)
    assert not any("clipped" in t for _, t in told(check_samples(samples, full=False, bits=14)))


def test_the_cache_keeps_depths_apart(tmp_path):
    path = deep(tmp_path / "a.png", 4095)
    for memory in (0, 1 << 20):
        caches = [
            ImageCache([sample(path)], (6, 9), bits=b, max_memory=memory, folder=tmp_path / "c")
            for b in (None, 12)
        ]
        dark, bright = (cache.rows([0])[0] for cache in caches)
        assert dark.max() == 15
        assert bright.max() == 255
    assert resized_image(path, (6, 9), bits=12).max() == 255


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_floats_and_large_integers_are_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((4, 4), 70000, kind)).save(path)
    with pytest.raises(UserError, match=r"a\.tif.*8 or 16 bits"):
        read_image(path, 12)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("colour", [False, True])
def test_deep_pictures_are_turned_as_shallow_ones_are(tmp_path, orientation, colour):
    shallow = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(shallow).save(tmp_path / "a.png", exif=exif)
    pixels = shallow.astype(np.uint16) * 16
    pixels = pixels[..., ::-1] if colour else pixels[..., 0]
    assert cv2.imwrite(str(tmp_path / "b.png"), pixels)
    chunks = (tmp_path / "a.png").read_bytes()
    at = chunks.index(b"eXIf") - 4
    length = int.from_bytes(chunks[at : at + 4], "big") + 12
    plain = (tmp_path / "b.png").read_bytes()
    first = plain.index(b"IDAT") - 4
    (tmp_path / "b.png").write_bytes(plain[:first] + chunks[at : at + length] + plain[first:])
    expected = read_image(tmp_path / "a.png")
    found = read_image(tmp_path / "b.png", 12)
    assert image_size(tmp_path / "b.png") == found.shape[:2]
    assert np.array_equal(found, expected if colour else np.repeat(expected[..., :1], 3, axis=2))
