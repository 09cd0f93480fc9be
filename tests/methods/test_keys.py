"""Every key of every method: its default is the yaml's, and nothing wrong gets through it."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from adbench.backbones import FeatureExtractor
from adbench.config.schema import check_model
from adbench.config.targets import imported, record_of
from adbench.config.typed import declared, from_mapping
from adbench.errors import UserError
from adbench.methods import memory
from adbench.methods.base import AnomalyModule
from adbench.synthesis.base import Synthesizer

CONF = Path(__file__).parents[2] / "conf" / "model"
NEAREST = ("patchcore", "subspace", "padim", "reference", "simplenet")
METHODS = ("glass", "realnet", "ulsad", "dfr", "sdas", "gaa", *NEAREST)
WRONG = {
    "text": "x",
    "empty": "",
    "null": None,
    "true": True,
    "list": [1, "a", None],
    "empty list": [],
    "section": {"a": 1},
    "zero": 0,
    "negative": -1,
    "fraction": 0.3,
    "above one": 1.5,
    "negative fraction": -0.5,
    "nan": math.nan,
    "infinite": math.inf,
    "huge": 10**9,
    "beyond all": 10**30,
    "huge float": 1e300,
    "wide": 65536,
    "seven": 7,
    "numbers": [7, 7],
    "hundred numbers": [1] * 100,
}


def yaml_keys(method):
    section = OmegaConf.to_container(OmegaConf.load(CONF / f"{method}.yaml"))["model"]
    return section.pop("_target_"), {
        key: value for key, value in section.items() if key not in ("name", "layers")
    }


def as_yaml(record):
    """A record as yaml holds it; sections by name, tuples as lists."""
    if is_dataclass(record):
        return {item.name: as_yaml(getattr(record, item.name)) for item in fields(record)}
    return list(record) if isinstance(record, tuple) else record


def common(declared_default, value):
    """The declared default, cut to the keys that the yaml shows."""
    if isinstance(value, dict):
        return {key: common(declared_default[key], item) for key, item in value.items()}
    return declared_default


def paths(kind, before=()):
    """Every dotted key of a record, sections included."""
    for name, hint in declared(kind)[0].items():
        yield (*before, name)
        if is_dataclass(hint):
            yield from paths(hint, (*before, name))


def nested(path, value):
    return {path[0]: nested(path[1:], value)} if path else value


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_those_of_the_yaml(method):
    target, values = yaml_keys(method)
    record = record_of(target)
    assert as_yaml(from_mapping(record, values, "model")) == as_yaml(record())
    assert common(as_yaml(record()), values) == values


@pytest.mark.parametrize("method", METHODS)
def test_every_declared_key_stands_in_the_yaml(method):
    target, values = yaml_keys(method)
    optional = {"width", "multipliers", "blocks", "attention", "head", "dropout"}
    for path in paths(record_of(target)):
        if path[0] == "classifier" and path[-1] in optional:
            continue  # as those of network; the yaml says so in a comment
        found = values
        for part in path:
            assert part in found, f"model.{'.'.join(path)} is missing in conf/model/{method}.yaml"
            found = found[part]


def test_settings_import_without_torch():
    code = "import sys\n"
    code += "".join(f"import adbench.methods.{m}.settings\n" for m in METHODS)
    code += "assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


class Nothing(Synthesizer):
    def prepare(self, datamodule):
        pass

    def foreground_masks(self, index):
        return None

    def __call__(self, image, *, foreground=None, source=None, generator):
        raise AssertionError("nothing is drawn here")


@pytest.fixture(scope="module")
def extractor():
    return FeatureExtractor("bundled", ["layer2", "layer3"])


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 40 << 20)


def module_of(method, extractor, side=256, **keys):
    target, _ = yaml_keys(method)
    torch.manual_seed(0)
    kind = imported(target, AnomalyModule, "model._target_")
    more = {"diffusion": None} if method == "gaa" else {}
    return kind(
        **more,
        backbone=None if method in ("sdas", "reference") else extractor,
        synthesis=Nothing(),
        image_size=(side, side),
        seed=0,
        **keys,
    )


SMALL = {
    "glass": {"embed": 48, "hidden": 8},
    "realnet": {"recon": {"mult": [1], "blocks": 1, "head_channels": 8}},
    "ulsad": {"channels": 48, "frn": {"mid": 8}, "autoencoder": {"narrow": 4, "wide": 4}},
    "dfr": {"latent": 4},
    "gaa": {"use": {"width": 4}, "classifier": {"network": "none"}},
    "sdas": {"network": {"width": 32, "multipliers": [1], "blocks": 1, "attention": []}},
    "patchcore": {"bank": 16},
    "subspace": {},
    "padim": {"columns": 4},
    "reference": {},
    "simplenet": {"hidden": 8},
}


def merged(small, keys):
    found = dict(small)
    for key, value in keys.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = merged(found[key], value) if both else value
    return found


def refusal(method, extractor, keys, told):
    """What the user is told; empty where the keys are taken and the module is built."""
    try:
        module_of(method, extractor, **keys).requirements(10)
    except UserError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{told}: {error!r}") from error
    return ""


@pytest.mark.parametrize("method", METHODS)
def test_no_value_of_any_key_ends_in_anything_but_a_user_error(method, extractor, little_memory):
    record = record_of(yaml_keys(method)[0])
    answers = {}
    for path in paths(record):
        for name, value in WRONG.items():
            keys = merged(SMALL[method], nested(path, value))
            told = f"model.{'.'.join(path)} = {name}"
            answer = answers[told] = refusal(method, extractor, keys, told)
            assert "\n" not in answer, told
            assert not answer or path[-1] in answer or "GiB" in answer, f"{told}: {answer}"
    accepted = sum(answer == "" for answer in answers.values())
    assert 0 < 4 * accepted < len(answers)


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_key_is_named_at_every_depth(method):
    record = record_of(yaml_keys(method)[0])
    sections = {(), *(path[:-1] for path in paths(record))}
    for section in sections:
        where = ".".join(("model", *section))
        with pytest.raises(UserError, match=rf"no key 'nonsense' in {where}"):
            from_mapping(record, nested((*section, "nonsense"), 1), "model")


@pytest.mark.parametrize(
    ("method", "keys", "named"),
    [
        ("glass", {"embed": 65536, "hidden": 65536}, "model.embed or model.hidden"),
        ("glass", {"embed": 40000, "patch": 63}, "model.embed or model.patch"),
        ("realnet", {"recon": {"width": 4, "mult": [64, 64]}}, "model.recon.width"),
        ("ulsad", {"channels": 48, "frn": {"mid": 65536}}, "model.frn.mid"),
        ("ulsad", {"channels": 48, "autoencoder": {"wide": 65536}}, "model.autoencoder.wide"),
        ("dfr", {"latent": 65536}, "model.latent"),
        ("padim", {"columns": 384}, "model.columns"),
        ("simplenet", {"hidden": 65536}, "model.hidden"),
        ("sdas", {"network": {"preset": "paper"}}, "model.network.preset"),
        ("sdas", {"network": {"width": 512}}, "model.network.width"),
        ("sdas", {"guidance": True, "classifier": {"preset": "paper"}}, "network"),
    ],
)
def test_what_cannot_be_held_is_refused_before_it_is_allocated(
    method, keys, named, extractor, little_memory
):
    with pytest.raises(UserError, match=r"GiB are free") as caught:
        module_of(method, extractor, **keys)
    assert named in str(caught.value)


def test_what_fits_is_built_with_the_same_draws(extractor):
    make = torch.nn.Linear
    torch.manual_seed(5)
    one = make(3, 4)
    torch.manual_seed(5)
    two = memory.built(lambda: make(3, 4), "a layer", "its width")
    assert torch.equal(one.weight, two.weight)
    assert memory.held_bytes(two) == 4 * (12 + 4)
    assert memory.training_bytes(two) == 16 * (12 + 4)
    assert memory.training_bytes(two.requires_grad_(False), None) == 0


@pytest.mark.parametrize("method", METHODS)
def test_the_estimate_holds_more_than_the_caches(method, extractor):
    module = module_of(method, extractor, **SMALL[method])
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert module.requirements(0).memory_bytes > 16 * trained
    assert module.requirements(10).memory_bytes >= module.requirements(0).memory_bytes


@pytest.mark.parametrize(
    ("method", "layers", "text"),
    [
        ("glass", ["layer3", "layer2"], "finest first"),
        ("realnet", ["layer3", "layer2"], "finest first"),
        ("ulsad", ["layer3"], "stride 8"),
    ],
)
def test_layers_with_the_wrong_strides_are_refused(method, layers, text):
    with pytest.raises(UserError, match=text):
        module_of(method, FeatureExtractor("bundled", layers), **SMALL[method])


@pytest.mark.parametrize("value", [5, "layer2", ["a", None], {"a": 1}, [1.5], [10**9]])
@pytest.mark.parametrize("method", METHODS)
def test_layers_of_the_wrong_kind_are_refused(method, value):
    target, values = yaml_keys(method)
    section = {"_target_": target, "name": method, **values}
    check_model({**section, "layers": ["layer2", -1]})
    with pytest.raises(UserError, match=r"model\.layers"):
        check_model({**section, "layers": value})


@pytest.mark.parametrize(
    "method", ["glass", "realnet", "ulsad", "dfr", "patchcore", "subspace", "padim", "simplenet"]
)
def test_a_missing_backbone_is_said(method):
    with pytest.raises(UserError, match="set backbone="):
        module_of(method, None)


def test_a_patch_that_leaves_no_position_is_refused():
    with pytest.raises(UserError, match="leaves no position"):
        module_of("glass", FeatureExtractor("bundled", ["layer3"]), 16, embed=48, patch=2)


def test_a_gaussian_wider_than_the_map_is_refused(extractor):
    with pytest.raises(UserError, match=r"model\.map\.sigma=100"):
        module_of("ulsad", extractor, **merged(SMALL["ulsad"], {"map": {"sigma": 100}}))
