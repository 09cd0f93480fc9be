"""The contract of the group, for every file under conf/synthesis."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from adbench.synthesis.mixture import built
from adbench.synthesis.writer import write_synthetic

FOLDER = Path(__file__).parents[2] / "conf" / "synthesis"
OTHERS = {"none", "mixture", "pool", "sdas"}  # need a composed file, a folder or a stage
# what a file does not inherit from the one it builds on are sizes and sources
INHERITING = {path.stem for path in FOLDER.glob("*.yaml") if "defaults:" in path.read_text()}
OTHERS |= INHERITING
PLAIN = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in OTHERS)


def section(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


@pytest.fixture(scope="module")
def synthesizers(datamodule, tmp_path_factory):
    """Every synthesizer of the group, built of its configuration file."""
    made = {name: built(name, section(name)) for name in PLAIN}
    folder = tmp_path_factory.mktemp("pool")
    write_synthetic(made["cutpaste"], datamodule, folder, n=6, seed=1, say=lambda _: None)
    keys = {**section("pool"), "root": str(folder)}
    made["pool"] = built("pool", keys)
    made["pool_of_pairs"] = built("pool", {**keys, "masks": "files"})
    mixture = {k: v for k, v in section("mixture").items() if k != "defaults"}
    parts = {name: section(name) for name in mixture["weights"]}
    made["mixture"] = built("mixture", {**mixture, "components": parts})
    for each in made.values():
        each.prepare(datamodule)
    return made


NAMES = [*PLAIN, "pool", "pool_of_pairs", "mixture"]


def test_the_group_is_complete():
    wanted = {"las", "draem", "dtd", "memseg", "cutpaste", "cutpaste_scar", "nsa", "pool", "none"}
    assert wanted <= {path.stem for path in FOLDER.glob("*.yaml")}


def images(datamodule, count=8):
    return datamodule.train_images(torch.arange(count))


def made(synthesizer, image, seed, **keys):
    return synthesizer(image, generator=torch.Generator().manual_seed(seed), **keys)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_types_and_ranges(synthesizers, datamodule, name):
    found = made(synthesizers[name], images(datamodule), 0)
    assert found.image.shape == (8, 3, 64, 64)
    assert found.image.dtype == torch.float32
    assert found.mask.shape == (8, 1, 64, 64)
    assert found.mask.dtype == torch.bool
    assert found.strength.shape == found.applied.shape == (8,)
    assert 0 <= found.image.min() <= found.image.max() <= 1
    assert 0 <= found.strength.min() <= found.strength.max() <= 1
    assert torch.equal(found.applied, found.mask.flatten(1).any(1))


@pytest.mark.parametrize("name", NAMES)
def test_bit_equal_outside_and_changed_inside(synthesizers, datamodule, name):
    image = images(datamodule)
    kept = image.clone()
    found = made(synthesizers[name], image, 3)
    assert torch.equal(image, kept)
    outside = ~found.mask.expand_as(image)
    assert torch.equal(found.image[outside], image[outside])
    assert found.applied.float().mean() >= 0.5
    assert not torch.equal(found.image, image)


@pytest.mark.parametrize("name", NAMES)
def test_equal_generator_states_give_equal_results(synthesizers, datamodule, name):
    image = images(datamodule)
    first, second = (made(synthesizers[name], image, 5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.mask, made(synthesizers[name], image, 6).mask)


@pytest.mark.parametrize("name", NAMES)
def test_defects_lie_in_the_foreground(synthesizers, datamodule, name):
    foreground = torch.zeros(8, 1, 64, 64, dtype=torch.bool)
    foreground[..., 16:48, 16:48] = True
    found = made(synthesizers[name], images(datamodule), 0, foreground=foreground)
    assert not (found.mask & ~foreground).any()
    assert found.applied.any()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("nsa", "mixture")])
def test_a_given_source_is_used(synthesizers, datamodule, name):
    image = images(datamodule)
    white = made(synthesizers[name], image, 0, source=torch.ones_like(image))
    black = made(synthesizers[name], image, 0, source=torch.zeros_like(image))
    assert torch.equal(white.mask, black.mask)
    inside = white.mask.expand_as(image)
    assert (white.image[inside] >= image[inside] - 0.15).all()
    assert (black.image[inside] <= image[inside]).all()


@pytest.mark.parametrize("name", ["las", "memseg", "pool"])
def test_own_foregrounds_of_training_and_held_out_images(synthesizers, datamodule, name):
    for split, count in (("train", 9), ("val", 3)):
        masks = synthesizers[name].foreground_masks(torch.arange(count), split)
        assert masks.shape == (count, 1, 64, 64)
        assert 0.2 < masks.float().mean() < 0.6  # the disc covers 37 %


@pytest.mark.parametrize("name", sorted(set(PLAIN)))
def test_probability_zero_changes_nothing(datamodule, name):
    synthesizer = built(name, {**section(name), "probability": 0.0})
    image = images(datamodule)
    found = made(synthesizer, image, 0)
    assert torch.equal(found.image, image)
    assert not found.mask.any()
    assert not found.applied.any()


@pytest.mark.parametrize("name", NAMES)
def test_one_image_and_an_odd_size(synthesizers, name):
    image = torch.rand(1, 3, 50, 71, generator=torch.Generator().manual_seed(0))
    found = made(synthesizers[name], image, 0)
    assert found.image.shape == image.shape
    assert found.mask.shape == (1, 1, 50, 71)
