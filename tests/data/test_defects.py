"""Which real defects may be seen, and that none of them is ever scored."""

from __future__ import annotations

import json
import shutil

import pytest

from adbench.data.datamodule import split_samples
from adbench.data.defects import (
    SEEN,
    check_disjoint,
    described,
    read_seen,
    seen_through,
    with_seen,
    without_these,
    write_seen,
)
from adbench.data.layouts import get_layout
from adbench.errors import UserError
from tests.data import trees


@pytest.fixture
def samples(tmp_path):
    for i in range(4):
        trees.image(tmp_path / "nut/train/good" / f"{i:03d}.png")
    trees.image(tmp_path / "nut/test/good/000.png")
    for name, count in (("hole", 7), ("dent", 2), ("rust", 1)):
        for i in range(count):
            trees.image(tmp_path / "nut/test" / name / f"{i:03d}.png")
            trees.mask(tmp_path / "nut/ground_truth" / name / f"{i:03d}_mask.png")
    return get_layout("mvtec").read(tmp_path, "nut")


def seen(samples):
    return [sample.relative for sample in samples if sample.split == SEEN]


def kinds(samples):
    found = [sample.defect for sample in samples if sample.split == SEEN]
    return {name: found.count(name) for name in set(found)}


def test_a_third_of_each_type_at_least_one_and_one_left(samples):
    assert kinds(with_seen(samples, "third", 0)) == {"hole": 2, "dent": 1}


def test_a_number_is_spread_over_the_types(samples):
    for count in range(1, 8):
        found = kinds(with_seen(samples, count, 0))
        assert sum(found.values()) == count
        assert found.get("dent", 0) <= 1
        assert "rust" not in found
    assert kinds(with_seen(samples, 2, 0)) == {"hole": 1, "dent": 1}


def test_more_than_there_are_is_one_line_with_the_most(samples):
    with pytest.raises(UserError, match=r"dataset.defects=8: .* at most dataset.defects=7") as told:
        with_seen(samples, 8, 0)
    assert "\n" not in str(told.value)


def test_files_are_taken_by_name_and_a_wrong_one_gets_the_nearest(samples):
    name = "nut/test/rust/000.png"
    assert seen(with_seen(samples, [name], 0)) == [name]
    with pytest.raises(UserError, match="rust/000"):
        with_seen(samples, ["nut/test/rust/00.png"], 0)
    with pytest.raises(UserError, match="no defective picture"):
        with_seen(samples, ["nut/test/good/000.png"], 0)


def test_the_seed_alone_decides(samples):
    assert seen(with_seen(samples, "third", 1)) == seen(with_seen(samples[::-1], "third", 1))[::-1]
    different = {tuple(seen(with_seen(samples, "third", seed))) for seed in range(8)}
    assert len(different) > 1


def test_an_equal_picture_under_another_name_goes_with_it(samples, tmp_path):
    first = seen(with_seen(samples, "third", 0))[0]
    copy = tmp_path / "nut/test/dent/900.png"
    shutil.copyfile(tmp_path / first, copy)
    trees.mask(tmp_path / "nut/ground_truth/dent/900_mask.png")
    again = get_layout("mvtec").read(tmp_path, "nut")
    assert "nut/test/dent/900.png" in seen(with_seen(again, [first], 0))


def test_splits_keep_them_apart(samples):
    splits = split_samples(with_seen(samples, "third", 0))
    assert len(splits.defects) == 3
    assert not {s.image for s in splits.defects} & {s.image for s in [*splits.test, *splits.train]}


def test_a_later_run_drops_what_its_pairs_have_seen_by_content(samples, tmp_path):
    marked = with_seen(samples, "third", 0)
    run = tmp_path / "run"
    (run / "stages" / "filter").mkdir(parents=True)
    write_seen(run, described(marked), marked, "third", 0)
    for root in (run, run / "stages" / "filter"):
        known = seen_through({"components": {"a": {"root": str(root)}}})
        later = without_these(samples, known)
        assert seen(later) == seen(marked)
        assert known[0].through == str(root)
        check_disjoint(later, known)
    with pytest.raises(UserError, match="it is not scored"):
        check_disjoint(samples, known)


def test_a_damaged_record_is_refused(tmp_path):
    for document in ({}, {"seen": 3}, {"seen": [{"file": "a"}]}, {"seen": [1]}):
        (tmp_path / "defects.json").write_text(json.dumps(document))
        with pytest.raises(UserError, match=r"defects\.json is damaged"):
            read_seen(tmp_path / "defects.json")
