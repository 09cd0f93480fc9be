"""Data sets are found, or said to be missing with the way to them."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

from adbench.data.catalogue import CATALOGUE, dataset_root
from adbench.data.layouts import get_layout
from adbench.errors import UserError

CONF = Path(__file__).parents[2] / "conf" / "dataset"
FILES = sorted(CONF.glob("*.yaml"))
COMMON = [
    "name",
    "layout",
    "root",
    "folder",
    "category",
    "multiclass",
    "shots",
    "image_size",
    "fit",
    "bits",
    "limit",
    "defects",
    "hold_out",
    "corrupt_background",
    "options",
]


def test_root_is_found_under_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "visa_copy").mkdir()
    monkeypatch.setenv("ADBENCH_DATA", str(tmp_path))
    assert dataset_root("visa", layout="visa", folder="visa_copy") == tmp_path / "visa_copy"


def test_default_data_folder_is_data_here(tmp_path, monkeypatch):
    (tmp_path / "data/mvtec").mkdir(parents=True)
    monkeypatch.delenv("ADBENCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert dataset_root("mvtec", layout="mvtec") == tmp_path / "data/mvtec"


def test_missing_set_says_where_it_was_looked_for_and_where_it_can_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("ADBENCH_DATA", str(tmp_path))
    with pytest.raises(UserError) as caught:
        dataset_root("visa", layout="visa", folder="visa")
    message = str(caught.value)
    assert str(tmp_path / "visa") in message
    assert "ADBENCH_DATA" in message
    assert CATALOGUE["visa"].page in message
    assert "\n" not in message


def test_given_root_that_is_missing_is_answered_with_the_nearest(tmp_path):
    (tmp_path / "mvtec").mkdir()
    with pytest.raises(UserError, match=r"dataset\.root.*did you mean 'mvtec'"):
        dataset_root("mvtec", layout="mvtec", root=str(tmp_path / "mvtek"))


def test_root_that_is_a_file_fits_csv_only(tmp_path):
    file = tmp_path / "list.csv"
    file.touch()
    assert dataset_root("csv", layout="csv", root=str(file)) == file
    with pytest.raises(UserError, match="is a file, not a folder"):
        dataset_root("mvtec", layout="mvtec", root=str(file))


def test_demo_needs_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ADBENCH_CACHE", str(tmp_path))
    assert dataset_root("demo", layout="demo") == tmp_path / "demo"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_configuration_builds_its_layout(path):
    config = yaml.safe_load(path.read_text())
    assert list(config) == COMMON
    assert config["name"] == path.stem
    layout = get_layout(config["layout"], **config["options"])
    takes = inspect.signature(type(layout)).parameters
    assert set(config["options"]) == set(takes) or config["layout"] == "visa"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_option_defaults_stand_in_the_configuration(path):
    config = yaml.safe_load(path.read_text())
    layout = type(get_layout(config["layout"]))
    for name, parameter in inspect.signature(layout).parameters.items():
        default = parameter.default
        default = list(default) if isinstance(default, tuple) else default
        assert config["options"].get(name, default) == default


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_is_explained(path):
    for line in path.read_text().splitlines():
        assert line.startswith("#") or line == "options:" or " # " in line, line


def test_every_known_set_has_a_configuration():
    names = {path.stem for path in FILES}
    assert set(CATALOGUE) - {"dtd"} <= names
    assert names - set(CATALOGUE) == {"demo", "folder", "csv", "pictures"}


def test_own_folders_start_from_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert dataset_root("folder", layout="folder") == tmp_path


def test_pictures_need_a_root():
    with pytest.raises(UserError, match=r"dataset\.root=FOLDER"):
        dataset_root("pictures", layout="pictures")
