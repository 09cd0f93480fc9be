"""Decoded pictures are kept once each, shared by processes, and dropped beyond a size."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from adbench.data.cache import PICTURES, ImageCache, cached_bytes, drop_beyond
from adbench.data.places import cache_limit, default_cache_folder
from adbench.data.sample import NORMAL, Sample
from adbench.errors import UserError
from tests.data import trees

SIZE = (16, 16)
BYTES = 16 * 16 * 3


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ADBENCH_CACHE", str(tmp_path / "cache"))


def samples(folder: Path, count: int = 4) -> list[Sample]:
    paths = [trees.image(folder / f"{number}.png", size=(20, 30)) for number in range(count)]
    return [Sample(path, NORMAL, "part", "good", "train", root=folder) for path in paths]


def cached(found: list[Sample], **keys: object) -> ImageCache:
    return ImageCache(found, SIZE, max_memory=0, **keys)


def entries() -> list[Path]:
    return sorted((default_cache_folder() / PICTURES).glob("*/*"))


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
def test_disk_equals_memory(tmp_path, fit):
    found = samples(tmp_path)
    inside, outside = ImageCache(found, SIZE, fit=fit), cached(found, fit=fit)
    for positions in ([0, 1, 2, 3], [3, 0, 3], []):
        assert np.array_equal(inside.rows(positions), outside.rows(positions))
    assert inside.rows([2]).flags.writeable
    assert len(entries()) == 4
    assert cached_bytes() == 4 * BYTES


def test_equal_pictures_are_kept_once_whatever_split_seed_or_folder(tmp_path):
    found = samples(tmp_path / "a")
    cached(found).fill()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    cached(found[1:3]).fill()
    moved = [Sample(tmp_path / "b" / s.image.name, NORMAL, "x", "good", "val") for s in found]
    cached(moved[::-1]).fill()
    assert len(entries()) == 4


def test_size_fit_bits_and_content_are_apart(tmp_path):
    found = samples(tmp_path, 1)
    for keys in ({}, {"fit": "pad"}, {"fit": "crop"}, {"bits": 12}):
        cached(found, **keys).fill()
    ImageCache(found, (16, 17), max_memory=0).fill()
    assert len(entries()) == 5
    before = cached(found).rows([0])
    trees.image(found[0].image, size=(20, 30), seed=7)
    assert not np.array_equal(cached(found).rows([0]), before)
    assert len(entries()) == 6


def test_a_second_run_decodes_nothing(tmp_path, monkeypatch):
    found = samples(tmp_path)
    first = cached(found).rows([0, 1, 2, 3])
    monkeypatch.setattr("adbench.data.cache.read_image", lambda *_: pytest.fail("decoded again"))
    assert np.array_equal(cached(found).rows([0, 1, 2, 3]), first)


def test_what_another_process_drops_or_cuts_is_made_again(tmp_path):
    cache = cached(samples(tmp_path))
    first = cache.rows([0, 1, 2, 3])
    for path in entries()[:2]:
        path.unlink()
    entries()[0].write_bytes(b"cut")
    assert np.array_equal(cache.rows([0, 1, 2, 3]), first)


def test_the_least_recently_used_go_first(tmp_path):
    folder = default_cache_folder() / PICTURES
    old, new = samples(tmp_path / "old"), samples(tmp_path / "new")
    cached(old).fill()
    for age, path in enumerate(entries()):
        os.utime(path, ns=(10**18 + age, 10**18 + age))
    oldest = entries()[:2]
    cached(new).fill()
    assert drop_beyond(6 * BYTES, folder) == 2
    assert not any(path.exists() for path in oldest)
    cached(old).fill()
    kept = cached(new)
    kept.fill()
    assert drop_beyond(0, folder, keep=kept._files) == 4
    assert len(entries()) == 4
    assert drop_beyond(10**9, folder) == 0


def test_the_limit_is_kept_by_filling(tmp_path, monkeypatch):
    monkeypatch.setenv("ADBENCH_CACHE_SIZE", str(5 * BYTES / 1e9))
    for number in range(3):
        cached(samples(tmp_path / str(number))).fill()
        assert cached_bytes() <= 5 * BYTES


@pytest.mark.parametrize("value", ["-1", "many", "nan", "inf"])
def test_a_wrong_limit_is_one_line(monkeypatch, value):
    monkeypatch.setenv("ADBENCH_CACHE_SIZE", value)
    with pytest.raises(UserError, match=f"ADBENCH_CACHE_SIZE={value}"):
        cache_limit()


def test_leftovers_of_killed_processes_are_removed_and_others_kept(tmp_path):
    folder = default_cache_folder() / PICTURES / "ab"
    folder.mkdir(parents=True)
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead, living, old = (
        folder / f".x.u8.{pid}.1.tmp" for pid in (ended.pid, os.getpid(), f"{os.getpid()}9")
    )
    for path in (dead, living, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600, time.time() - 3600))
    cached(samples(tmp_path)).fill()
    assert [path.exists() for path in (dead, living, old)] == [False, True, False]


def _fill(found: list[Sample]) -> None:
    cached(found).rows(range(30))


def test_two_processes_may_fill_it_at_once(tmp_path):
    found = samples(tmp_path / "data", 30)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(found,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(entries()) == 30
    expected = ImageCache(found, SIZE).rows(range(30))
    assert np.array_equal(cached(found).rows(range(30)), expected)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="ADBENCH_CACHE=FOLDER"):
        cached(samples(tmp_path / "data")).fill()
