"""Foreground presets against the stored references, morphology against scikit-image, the bank."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adbench.config.typed import from_mapping
from adbench.errors import UserError
from adbench.synthesis.foreground import ForegroundBank
from adbench.synthesis.foreground_presets import (
    RULES,
    closed,
    foreground_rule,
    opened,
    preset_foreground,
)
from adbench.synthesis.settings import PRESETS, ForegroundKeys

_Y, _X = np.mgrid[:100, :140]
_DISC = ((_Y - 50) ** 2 + (_X - 70) ** 2 < 35**2)[..., None]
PICTURE = np.where(_DISC, 200, 30).astype(np.uint8).repeat(3, -1)


def bank(**keys):
    return ForegroundBank(from_mapping(ForegroundKeys, keys, "synthesis.foreground"))


PUBLISHED = {"mvtec": 15, "visa": 12, "mpdd": 6, "btad": 3}


@pytest.mark.shared
def test_preset_judge(shared):
    with np.load(shared / "judges/methods/realnet/synth.npz") as stored:
        image = stored["image"].astype(np.uint8)
        names = [key[3:] for key in stored.files if key.startswith("fg_")]
        assert len(names) == 10
        for name in names:
            data_set, _, category = name.partition("_")
            found = foreground_rule(data_set, category)(image)
            assert np.array_equal(found, stored[f"fg_{name}"] > 0), name


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 15), st.integers(0, 1000))
def test_even_squares_do_not_shift(side, seed):
    from skimage.morphology import closing, opening

    noise = np.random.default_rng(seed).random((40, 33))
    mask = (cv2.GaussianBlur(noise, (0, 0), 2) > 0.5).astype(np.uint8)
    square = np.ones((side, side), np.uint8)
    assert np.array_equal(closed(mask, side), closing(mask, square))
    assert np.array_equal(opened(mask, side), opening(mask, square))


@pytest.mark.parametrize(("preset", "count"), PUBLISHED.items())
def test_presets_cover_every_category(preset, count):
    assert set(RULES) == set(PRESETS)
    assert len(RULES[preset]) == count


def test_a_preset_works_at_any_size():
    found = preset_foreground(PICTURE, "mvtec", "pill")
    assert found.shape == (100, 140)
    assert (found == _DISC[..., 0]).mean() > 0.98
    assert preset_foreground(PICTURE, "mvtec", "carpet").all()


def test_rules_where_there_are_any_else_otsu(datamodule):
    (category,) = {sample.category for sample in datamodule.train_samples}
    assert category == "disc"  # no data set of RealNet's has it
    otsu, rules = bank(method="otsu"), bank(method="rules", preset="mvtec")
    index = torch.arange(3)
    for each in (otsu, rules):
        each.prepare(datamodule)
    assert torch.equal(otsu.masks(index), rules.masks(index))
    found = rules._of(replace(datamodule.train_samples[0], category="bottle"), PICTURE)
    assert np.array_equal(found, preset_foreground(PICTURE, "mvtec", "bottle"))
    assert not np.array_equal(found, rules._of(datamodule.train_samples[0], PICTURE))


def test_a_rule_goes_before_the_list_of_textures(datamodule):
    sample = replace(datamodule.train_samples[0], category="grid")
    found = bank(method="preset", preset="mvtec")._of(sample, PICTURE)
    assert np.array_equal(found, preset_foreground(PICTURE, "mvtec", "grid"))
    assert bank(method="otsu")._of(sample, PICTURE).all()


def test_unknown_presets_and_categories_are_named():
    with pytest.raises(UserError, match="did you mean 'mvtec'"):
        bank(method="preset", preset="mvtecc")
    with pytest.raises(UserError, match="did you mean 'bottle'"):
        foreground_rule("mvtec", "botle")
    with pytest.raises(UserError, match="did you mean 'otsu'"):
        bank(method="otsuu")


def test_a_bank_of_files_is_the_ceiling_of_the_resized_mask(datamodule, tmp_path):
    folder = tmp_path / "disc"
    folder.mkdir()
    for sample in [*datamodule.train_samples, *datamodule.val_samples]:
        mask = np.zeros((128, 128), np.uint8)
        mask[41:80, 40:81] = 255
        cv2.imwrite(str(folder / f"{sample.image.stem}.png"), mask)
    files = bank(method="files", root=str(tmp_path))
    files.prepare(datamodule)
    found = files.masks(torch.tensor([2, 0]))
    assert found.shape == (2, 1, 64, 64)
    assert found[0, 0].sum() == 20 * 21  # rows 20.5..39, columns 20..40.5 of 64, rounded outwards
    assert files.masks(torch.tensor([2]), "val").shape == (1, 1, 64, 64)
    (folder / "003.png").unlink()
    with pytest.raises(UserError, match=r"003\.png"):
        bank(method="files", root=str(tmp_path)).prepare(datamodule)


def test_textures_and_none(datamodule):
    everywhere = bank(method="otsu", everywhere=["disc"])
    everywhere.prepare(datamodule)
    assert everywhere.masks(torch.arange(3)).all()
    nothing = bank(method="none")
    nothing.prepare(datamodule)
    assert nothing.masks(torch.arange(3)) is None
