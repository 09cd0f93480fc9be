"""A run can say which files differ from those it saw."""

from __future__ import annotations

import json
import os
import shutil
import time

import numpy as np
import pytest

from adbench.data.facts import content_hash, facts_of
from adbench.data.fingerprint import Fingerprint, differences, fingerprint, trained_on
from adbench.data.layouts import get_layout
from adbench.errors import UserError
from tests.data import trees


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ADBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def of(root) -> Fingerprint:
    return fingerprint(get_layout("mvtec").read(root, "bottle"))


def test_equal_data_are_equal_wherever_they_lie_and_in_whatever_order(tmp_path):
    first = trees.mvtec(tmp_path / "first")
    shutil.copytree(first, tmp_path / "second" / "moved")
    assert of(first) == of(tmp_path / "second" / "moved")
    samples = get_layout("mvtec").read(first, "bottle")
    assert fingerprint(samples[::-1]).as_dict() == fingerprint(samples).as_dict()


def test_it_is_plain_data_that_survives_json(tmp_path):
    found = of(trees.mvtec(tmp_path))
    stored = json.loads(json.dumps(found.as_dict()))
    assert stored["splits"]["train"]["files"] == 3
    assert stored["splits"]["test"]["files"] == 6  # four pictures, two masks
    assert differences(stored, found) == []


def test_what_differs_is_said_in_one_line_a_kind(tmp_path):
    root = trees.mvtec(tmp_path, train=6)
    stored = of(root).as_dict()
    good = root / "bottle/train/good"
    for number in range(4):
        trees.image(good / f"1{number}.png")
    (good / "000.png").unlink()
    trees.image(good / "001.png", seed=9)
    trees.mask(root / "bottle/ground_truth/broken/000_mask.png", rows=3)
    lines = differences(stored, of(root))
    where = "bottle/train/good"
    assert lines == [
        "test: 1 file changed: bottle/ground_truth/broken/000_mask.png",
        f"train: 4 files added: {where}/10.png, {where}/11.png, {where}/12.png, ...",
        f"train: 1 file removed: {where}/000.png",
        f"train: 1 file changed: {where}/001.png",
    ]


def test_a_moved_split_differs(tmp_path):
    root = trees.mvtec(tmp_path)
    stored = of(root).as_dict()
    (root / "bottle/train/good/000.png").rename(root / "bottle/test/good/900.png")
    assert [line.split(":")[0] for line in differences(stored, of(root))] == ["test", "train"]


def test_the_hash_follows_content_at_equal_size(tmp_path):
    root = trees.mvtec(tmp_path)
    before = of(root).as_dict()
    path = root / "bottle/train/good/000.png"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    after = of(root).as_dict()
    assert before["splits"]["train"]["hash"] != after["splits"]["train"]["hash"]
    assert before["splits"]["test"] == after["splits"]["test"]


@pytest.mark.parametrize("stored", [{}, None, [], {"schema": 1}, {"schema": 1, "splits": {"a": 5}}])
def test_what_cannot_be_understood_is_one_line(stored):
    assert len(differences(stored, Fingerprint({}))) == 1


def test_three_hundred_megabytes_take_under_two_seconds_and_then_nothing(tmp_path):
    block = np.random.default_rng(0).bytes(1 << 20)
    paths = [tmp_path / f"{number}.png" for number in range(300)]
    for number, path in enumerate(paths):
        path.write_bytes(number.to_bytes(4, "big") + block[4:])
    old = time.time_ns() - 10**11
    for path in paths:
        os.utime(path, ns=(old, old))
    start = time.perf_counter()
    first = facts_of(paths, "sha256", content_hash)
    middle = time.perf_counter()
    assert facts_of(paths, "sha256", content_hash) == first
    end = time.perf_counter()
    assert len(set(first)) == 300
    assert middle - start < 2
    assert end - middle < 0.3


def test_facts_are_found_once_for_an_unchanged_file(tmp_path):
    path = trees.image(tmp_path / "a.png")
    calls = []

    def find(path):
        calls.append(path)
        return "x"

    facts_of([path, path], "test", find)
    assert len(calls) == 1
    facts_of([path], "test", find)
    assert len(calls) == 2  # written a moment ago: not trusted yet
    os.utime(path, ns=(10**18, 10**18))
    for _ in range(3):
        facts_of([path], "test", find)
    assert len(calls) == 3
    facts_of([path], "other", find)
    os.utime(path, ns=(10**18, 10**18 + 1))
    facts_of([path], "test", find)
    assert len(calls) == 5


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADBENCH_CACHE", str(tmp_path / "file"))
    root = trees.mvtec(tmp_path / "data")
    assert of(root) == of(root)
    monkeypatch.setenv("ADBENCH_CACHE", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "facts-1.sqlite").write_bytes(b"no database" * 1000)
    assert of(root) == of(root)


def test_a_missing_file_is_named(tmp_path):
    samples = get_layout("mvtec").read(trees.mvtec(tmp_path), "bottle")
    samples[0].image.unlink()
    with pytest.raises(UserError, match=samples[0].image.name):
        fingerprint(samples)


def test_pictures_that_were_trained_on_are_known_under_other_names(tmp_path):
    root = trees.mvtec(tmp_path / "data")
    stored = of(root).as_dict()
    shutil.copy(root / "bottle/train/good/001.png", tmp_path / "new.png")
    trees.image(tmp_path / "other.png")
    samples = get_layout("pictures", name="x").read(tmp_path, "x")
    outside = [sample for sample in samples if sample.image.parent == tmp_path]
    assert [s.image.name for s in trained_on(stored, outside)] == ["new.png"]
    assert trained_on({}, outside) == []
