"""Bad files are named before training: damaged, no regular files, names nobody can print."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from adbench.data.check import check_samples
from adbench.data.files import check_names, shown_path
from adbench.data.images import (
    image_size,
    images_in,
    open_mask,
    peak_value,
    read_image,
    read_values,
)
from adbench.data.layouts import get_layout
from adbench.data.whole import broken_files
from adbench.errors import UserError
from tests.data import trees


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ADBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(path: Path, side: int = 64) -> Path:
    """Write a photograph-like picture: smooth, with grain."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    pixels = (120 + 80 * np.sin(7 * x + 3 * y))[..., None] + rng.normal(0, 6, (side, side, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_whole_files_are_whole(tmp_path, suffix):
    path = picture(tmp_path / f"a.{suffix}")
    assert broken_files([path]) == {}
    path.write_bytes(path.read_bytes() + b"\0" * 100)  # legal behind the end
    assert broken_files([path]) == {}


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
@pytest.mark.parametrize("cut", [1, 2, 13, 300])
def test_a_picture_cut_in_its_last_bytes_is_named(tmp_path, suffix, cut):
    path = picture(tmp_path / f"a.{suffix}")
    data = path.read_bytes()
    if suffix == "tif":  # Pillow writes the directory last; cut what it points to instead
        pixels = Image.open(path).tag_v2[273][0]
        data = data[: pixels + 64 * 64 * 3]
    path.write_bytes(data[:-cut])
    found = broken_files([path])
    assert str(path) in found[path]
    assert "\n" not in found[path]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(place=st.floats(0, 1), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_in_a_png_is_found(tmp_path, place, bit):
    path = picture(tmp_path / "a.png", 24)
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1 << bit
    path.write_bytes(data)
    assert path in broken_files([path])


def test_a_jpeg_with_an_impossible_mark_or_a_broken_table_is_found(tmp_path):
    path = picture(tmp_path / "a.jpg", 256)
    whole = path.read_bytes()
    scan = whole.index(b"\xff\xda")
    stuffed = whole.index(b"\xff\x00", scan)
    for at, value in ((stuffed + 1, 0x31), (whole.index(b"\xff\xdb") + 1, 0x00), (scan + 3, 0x00)):
        data = bytearray(whole)
        data[at] = value
        path.write_bytes(data)
        assert path in broken_files([path]), at


def test_a_thumbnails_end_is_not_the_pictures(tmp_path):
    path = picture(tmp_path / "a.jpg")
    thumbnail = path.read_bytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = thumbnail[:2] + segment + thumbnail[2:]
    path.write_bytes(whole)
    assert broken_files([path]) == {}
    path.write_bytes(whole[: 2 + len(segment) + 40])
    assert "cut off" in broken_files([path])[path]


def test_a_verdict_follows_the_file(tmp_path):
    path = picture(tmp_path / "a.png")
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    assert path in broken_files([path])
    path.write_bytes(data)
    os.utime(path, ns=(10**18, 10**18))
    assert broken_files([path]) == {}
    path.write_bytes(data[:-5] + b"12345")  # same length, other time
    assert path in broken_files([path])


def test_every_damaged_file_is_an_error_of_the_quick_check(tmp_path):
    root = trees.mvtec(tmp_path)
    for name in ("train/good/000.png", "test/broken/001.png", "ground_truth/broken/000_mask.png"):
        path = root / "bottle" / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    found = check_samples(get_layout("mvtec").read(root, "bottle"), full=False)
    assert [f.level for f in found] == ["error"] * 3
    assert all("damaged" in f.message for f in found)


READERS = [read_image, image_size, open_mask, peak_value, read_values]


def special(path: Path, kind: str) -> Path:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.parent / "nothing.png")
    return path


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("pipe", "named pipe"),
        ("socket", "socket"),
        ("device", "device"),
        ("folder", "folder"),
        ("dangling", "link to nothing"),
    ],
)
def test_what_is_no_regular_file_is_named_at_once(tmp_path, kind, told):
    path = special(tmp_path / "a.png", kind)

    def read_all() -> None:
        for reader in READERS:
            with pytest.raises(UserError, match=rf"a\.png.*{told}"):
                reader(path)
        assert told in broken_files([path])[path]

    thread = threading.Thread(target=read_all, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "reading hangs"


def test_the_check_names_a_pipe_among_training_pictures(tmp_path):
    root = trees.mvtec(tmp_path)
    special(root / "bottle/train/good/9.png", "pipe")
    found = check_samples(get_layout("mvtec").read(root, "bottle"), full=True)
    assert [(f.level, f.path.name) for f in found] == [("error", "9.png")]


def test_links_to_regular_files_are_pictures(tmp_path):
    (tmp_path / "b.png").symlink_to(picture(tmp_path / "a.png"))
    assert np.array_equal(read_image(tmp_path / "b.png"), read_image(tmp_path / "a.png"))


def test_names_that_are_no_utf8_are_refused_escaped(tmp_path):
    raw = os.fsencode(tmp_path) + b"/b\xfcrste.png"
    os.rename(picture(tmp_path / "a.png"), raw)
    with pytest.raises(UserError, match=r"1 names in .* b\\xfcrste\.png"):
        images_in(tmp_path)
    assert shown_path(os.fsdecode(raw)).endswith("b\\xfcrste.png")
    shown_path(os.fsdecode(raw)).encode("utf-8")


def test_folders_that_are_no_utf8_are_refused_escaped(tmp_path):
    root = trees.mvtec(tmp_path)
    os.rename(root / "bottle/test/broken", os.fsencode(root) + b"/bottle/test/br\xfcchig")
    with pytest.raises(UserError, match=r"br\\xfcchig"):
        get_layout("mvtec").read(root, "bottle")


@pytest.mark.parametrize("name", ["a\nb.png", "a\x1b[31m.png", "a\u2028b.png"])
def test_control_characters_are_refused_escaped(tmp_path, name):
    with pytest.raises(UserError) as caught:
        check_names([name, "fine.png"], tmp_path)
    assert str(caught.value).startswith("1 names in ")
    assert not set(str(caught.value)) & set("\n\x1b\u2028")


@pytest.mark.parametrize("name", ["Gehäuse 1.png", "部品.png", "a\u202fb.png", "a=b,c.png"])
def test_other_names_are_fine(tmp_path, name):
    check_names([name], tmp_path)
    picture(tmp_path / name)
    assert [path.name for path in images_in(tmp_path)] == [name]
