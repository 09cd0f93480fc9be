"""Every key of every record against every kind of wrong value: one line, or what works."""

from __future__ import annotations

import copy
import functools
import math
from typing import get_args, get_origin

import pytest
import torch
import yaml

from adbench.backbones import build_backbone
from adbench.backbones.distill.recipe import DistillKeys, Recipe
from adbench.cli.synthesize import SynthesizeKeys
from adbench.config.schema import BackboneKeys, check_synthesis
from adbench.config.targets import imported, record_of
from adbench.config.typed import Within, declared, from_mapping, hint_at
from adbench.diffusion.model import SdasModel
from adbench.diffusion.settings import FitKeys, PoolKeys
from adbench.errors import UserError
from adbench.synthesis.base import Synthesizer
from tests.data import trees
from tests.synthesis.test_every_synthesizer import FOLDER, INHERITING

IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
WRONG = [
    "text",
    "",
    "a/../b",
    -1,
    -0.5,
    0,
    0.0,
    1,
    2,
    0.5,
    1e-320,
    1e12,
    1e300,
    10**30,
    -(10**30),
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    None,
    [],
    [1],
    [1, 2],
    [2, 1],
    [0.5, 0.25],
    [math.nan, 1],
    [None, None],
    ["a"],
    [[1], [2]],
    [1, 2, 3],
    {},
    {"a": 1},
    {"_target_": "os.system", "a": 1},
    {1: 2},
    object(),
    b"bytes",
]


def ends(hint):
    """Return the finite ends of the ranges inside an annotation."""
    found = []
    for note in get_args(hint):
        if isinstance(note, Within):
            found += [end for end in (note.low, note.high) if math.isfinite(end)]
        elif get_origin(note) is not None:
            found += ends(note)
    return found


def bounds(hint):
    """Return those ends as they may be typed: alone, whole, and as pairs."""
    found = sorted(set(ends(hint)))
    alone = [*found, *[int(end) for end in found if end == int(end)]]
    return [*alone, *[[end, end] for end in alone], found]


def walked(kind, section):
    """Yield (dotted key, value, section with that value) for every key of a record."""
    for path in leaves(kind):
        for value in [*WRONG, *bounds(hint_at(kind, path))]:
            changed = copy.deepcopy(section)
            node = changed
            for part in path[:-1]:
                node = node.setdefault(part, {})
            node[path[-1]] = value
            yield ".".join(path), value, changed
    yield "unknown", 1, {**section, "unknown": 1}


def leaves(kind, path=()):
    for key, hint in declared(kind)[0].items():
        yield (*path, key)
        for option in (hint, *get_args(hint)):
            if isinstance(option, type) and hasattr(option, "__dataclass_fields__"):
                yield from leaves(option, (*path, key))


def failures(kind, section, use):
    """Return what ended otherwise than in a UserError of one line or an object that works."""
    found, tried = [], 0
    for key, value, changed in walked(kind, section):
        tried += 1
        try:
            use(changed)
        except UserError as error:
            if "\n" in str(error) or len(str(error)) > 500:
                found.append(f"{key}={value!r}: {str(error)[:80]}")
        except Exception as error:
            found.append(f"{key}={value!r}: {type(error).__name__}: {str(error)[:80]}")
    assert tried > len(WRONG)
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Generate fewer textures, read annotations and installed packages once, not each time."""
    monkeypatch.setattr("adbench.synthesis.textures.ProceduralTextures.block", 2)
    monkeypatch.setattr("adbench.config.typed.declared", functools.cache(declared))
    monkeypatch.setattr("adbench.config.targets.trusted_packages", lambda: {"adbench"})


FILES = sorted(
    path.stem for path in FOLDER.glob("*.yaml") if path.stem not in {"none", "dtd", *INHERITING}
)


@pytest.mark.parametrize("name", FILES)
def test_keys_of_synthesizers(name, tmp_path):
    section = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    section.pop("defaults", None)
    for number in range(2):
        trees.image(tmp_path / f"{number}.png", size=(32, 32))
    if name == "mixture":
        parts = ("las", "cutpaste")
        section["components"] = {
            part: yaml.safe_load((FOLDER / f"{part}.yaml").read_text()) for part in parts
        }
    if name in ("pool", "sdas"):
        section["root"] = str(tmp_path)
    target = section.pop("_target_")

    def use(changed):
        check_synthesis({"_target_": target, **changed}, "synthesis")
        changed.pop("name", None)
        made = imported(target, Synthesizer, "synthesis")(**changed)
        found = made(IMAGE, generator=torch.Generator().manual_seed(0))
        assert found.image.isfinite().all()
        assert found.image.shape == IMAGE.shape
        assert made.record is not None

    section.pop("name")
    use(copy.deepcopy(section))
    assert failures(record_of(target), section, use) == []


def test_keys_of_a_component():
    las = yaml.safe_load((FOLDER / "las.yaml").read_text())
    target = "adbench.synthesis.mixture.Mixture"

    def use(changed):
        section = {"components": {"las": {**las, **changed}}, "weights": {"las": 1}}
        check_synthesis({"_target_": target, **section}, "synthesis")

    assert failures(record_of(las["_target_"]), {}, use) == []


def test_keys_of_the_backbone():
    section = {"name": "bundled", "layers": ["layer1"], "weights": None, "exposure": None}

    def use(changed):
        keys = from_mapping(BackboneKeys, changed, "backbone")
        if keys.name is not None and keys.layers is not None:
            extractor = build_backbone(keys.name, keys.layers, keys.weights, keys.exposure)
            assert extractor(IMAGE)[0].isfinite().all()

    use(section)
    assert failures(BackboneKeys, section, use) == []


def test_keys_of_the_recipe_and_of_its_verb():
    section = {"teacher": "x", "steps": 1}
    assert failures(Recipe, section, lambda keys: from_mapping(Recipe, keys, "")) == []
    assert failures(DistillKeys, {}, lambda keys: from_mapping(DistillKeys, keys, "")) == []


def test_keys_of_synthesize():
    assert failures(SynthesizeKeys, {}, lambda keys: from_mapping(SynthesizeKeys, keys, "")) == []


def test_keys_of_pools_and_of_their_models():
    small = {"width": 32, "multipliers": [1, 1], "blocks": 1, "attention": [], "head": 32}

    built = set()

    def use(changed):
        keys = from_mapping(FitKeys, changed, "synthesis.fit")
        wanted = (keys.network, keys.size)
        if keys.network.shape.parameters < 1e7 and wanted not in built:
            built.add(wanted)
            with torch.device("meta"):
                SdasModel(keys.network.given(), ["a"], (keys.size, keys.size))

    use({"network": small, "size": 16})
    assert failures(FitKeys, {"network": small, "size": 16}, use) == []
    assert failures(PoolKeys, {}, lambda keys: from_mapping(PoolKeys, keys, "synthesis")) == []
