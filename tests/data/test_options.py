"""Every option of every layout has a type and a range; own folders keep their name and place."""

from __future__ import annotations

import inspect
import math
import os
from pathlib import Path

import pytest
import yaml

from adbench.config.schema import DatasetKeys
from adbench.config.typed import from_mapping
from adbench.data.layouts import _CLASSES, get_layout
from adbench.data.sample import UNKNOWN
from adbench.errors import UserError
from adbench.training.data import chosen_categories, read_samples, resolved_dataset
from tests.data import trees

CONF = Path(__file__).parents[2] / "conf" / "dataset"
WRONG = [
    True,
    -1,
    -0.5,
    0,
    1.5,
    math.nan,
    math.inf,
    10**30,
    99999,
    None,
    [],
    [None],
    [[]],
    {},
    {"a": 1},
    "",
    "../up",
    "/",
    "a/b",
    "x" * 5000,
    "a\0b",
    "\x1b[31m",
    "nowhere",
]
OPTIONS = [
    (name, option)
    for name in _CLASSES
    for option in inspect.signature(type(get_layout(name))).parameters
]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("ADBENCH_CACHE", str(tmp_path / "cache"))
    for name in ("good", "bad"):
        for number in range(3):
            trees.image(tmp_path / "data" / name / f"{number}.png")
    (tmp_path / "data/samples.csv").write_text("image\ngood/0.png\n")
    return tmp_path / "data"


@pytest.mark.parametrize(("name", "option"), OPTIONS)
@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:12])
def test_wrong_values_end_in_one_line_or_are_right(root, name, option, value):
    message = ""
    try:
        layout = get_layout(name, **{option: value})
        if name != "demo":  # what it makes is tested where it is made
            for category in layout.categories(root):
                layout.read(root, category)
    except UserError as error:
        message = str(error)
    assert not set(message) & set("\n\x1b\0")
    assert len(message) < 1500


@pytest.mark.parametrize("name", _CLASSES)
@pytest.mark.parametrize("value", [1, None, "x", []])
def test_unknown_options_are_named(name, value):
    with pytest.raises(UserError, match=r"no key 'sizze' in dataset\.options"):
        get_layout(name, sizze=value)


@pytest.mark.parametrize(
    ("name", "option", "values"),
    [
        ("demo", "size", [0, 63, 2049, 99999, 100.0, "256", None, True]),
        ("demo", "train", [0, -1, 10_001, 1.5, None]),
        ("demo", "good", [-1, 10_001, "x"]),
        ("demo", "defective", [-1, 10_001]),
        ("demo", "difficulty", [-0.1, 1.1, math.nan, None, "x"]),
        ("demo", "fillings", [0, 3, "1", True, None]),
        ("demo", "seed", [-1, 2**32, 0.5, None]),
        ("folder", "test_fraction", [-0.1, 1, 1.0, math.nan, None, "x"]),
        ("folder", "normal", [None, [], 5, {}]),
        ("folder", "seed", [-1, 2**32]),
        ("folder", "name", ["", "a/b", "..", ".x", 5]),
        ("mad_man", "subset", [None, 5, {}]),
        ("mvtec_ad2", "test", ["privat", None, 1, ["public"]]),
        ("mvtec", "inner", ["x", None, [1], ["../x"]]),
        ("visa", "split", ["../x", "", None, 5]),
        ("csv", "file", [None, 5]),
        ("pictures", "name", ["a/b", 5, [""]]),
    ],
)
def test_values_out_of_range_are_refused_naming_the_option(name, option, values):
    for value in values:
        with pytest.raises(UserError, match=rf"dataset\.options\.{option}"):
            get_layout(name, **{option: value})


def test_a_demo_that_would_fill_the_disk_is_refused():
    with pytest.raises(UserError, match="are the most"):
        get_layout("demo", size=2048, train=10_000)


# names and places


def keys(name: str, **changes: object) -> DatasetKeys:
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    values["options"] |= changes.pop("options", {})
    return from_mapping(DatasetKeys, values | changes, "dataset")


def test_own_folders_mean_the_same_from_anywhere(root, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    own = keys("folder", options={"normal": "data/good", "abnormal": "data/bad"})
    stored = resolved_dataset(own)
    assert stored.root == str(tmp_path)
    assert stored.options["name"] == "data"
    names, samples = chosen_categories(own), read_samples(own, ["data"])
    monkeypatch.chdir(os.sep)
    assert chosen_categories(stored) == names == ["data"]
    assert read_samples(stored, names) == samples
    assert resolved_dataset(stored) == stored


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"options": {"normal": "good"}}, "data"),
        ({"options": {"normal": "../data/good", "abnormal": "bad"}}, "data"),
        ({"options": {"normal": "good", "name": "line 3"}}, "line 3"),
        ({"root": ".", "options": {"normal": "good"}}, "data"),
    ],
)
def test_the_name_of_own_folders(root, monkeypatch, changes, name):
    monkeypatch.chdir(root)
    assert resolved_dataset(keys("folder", **changes)).options["name"] == name


def test_a_given_root_names_own_folders_whatever_is_below(root, tmp_path):
    (root / "good").rename(tmp_path / "data/x")
    found = keys("folder", root=str(tmp_path), options={"normal": "data/x"})
    assert resolved_dataset(found).options["name"] == tmp_path.name


def test_other_layouts_are_resolved_too(root, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    csv = resolved_dataset(keys("csv", root="data/samples.csv"))
    assert (csv.root, csv.options["name"]) == (str(root / "samples.csv"), "data")
    assert chosen_categories(csv) == ["data"]
    pictures = resolved_dataset(keys("pictures", root="data"))
    assert (pictures.root, pictures.options["name"]) == (str(root), "data")
    assert resolved_dataset(keys("demo")).root is None
    mad = resolved_dataset(keys("mad_man", root="data", options={"train_root": "mvtec"}))
    assert mad.options["train_root"] == str(tmp_path / "mvtec")


# pictures without labels


def test_every_picture_below_the_root_is_read_in_order(tmp_path):
    for name in ("b.png", "a/x/1.JPG", "a/0.bmp", "z/ä.png"):
        trees.image(tmp_path / "new" / name)
    (tmp_path / "new/readme.txt").touch()
    trees.image(tmp_path / "new/.hidden/c.png")
    (tmp_path / "new/a/loop").symlink_to(tmp_path / "new")
    layout = get_layout("pictures")
    assert layout.categories(tmp_path / "new") == ["new"]
    samples = layout.read(tmp_path / "new", "new")
    assert [s.relative for s in samples] == ["a/0.bmp", "a/x/1.JPG", "b.png", "z/ä.png"]
    assert {(s.label, s.split, s.defect, s.masks) for s in samples} == {
        (UNKNOWN, "test", "unknown", ())
    }
    assert get_layout("pictures", name="bottle").read(tmp_path / "new", "bottle")[0].label == -1


def test_a_folder_without_pictures_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no picture in .*dataset\.root"):
        get_layout("pictures", name="x").read(tmp_path, "x")


def test_mvtec_root_with_only_a_test_split(tmp_path):
    root = tmp_path / "new"
    trees.image(root / "test/good/0.png")
    trees.image(root / "test/cut/0.png")
    trees.mask(root / "ground_truth/cut/0_mask.png")
    layout = get_layout("mvtec")
    assert layout.categories(root) == ["new"]
    samples = layout.read(root, "new")
    assert [(s.relative, s.label, len(s.masks)) for s in samples] == [
        ("test/cut/0.png", 1, 1),
        ("test/good/0.png", 0, 0),
    ]
    assert layout.read(tmp_path, "new")[0].relative == "new/test/cut/0.png"
