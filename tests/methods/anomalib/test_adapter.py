"""anomalib's models behind our contracts; without the package: what is said."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from omegaconf import OmegaConf

from adbench.backbones import FeatureExtractor
from adbench.config.compose import compose_config
from adbench.config.locate import conf_folder, nested_options
from adbench.config.schema import settings
from adbench.data.opening import read_samples
from adbench.errors import UserError
from adbench.methods.anomalib.module import AnomalibModule
from adbench.methods.anomalib.theirs import CLASSES
from adbench.methods.base import load_detector
from adbench.training.data import build_datamodule
from adbench.training.session import train
from tests.conformance.test_methods import data, quiet

assert data  # the fixture
THERE = importlib.util.find_spec("anomalib") is not None
needed = pytest.mark.skipif(not THERE, reason="the extra baselines (anomalib) is not installed")


def config_of(name, data, root, *more):
    words = ["dataset=mvtec", f"dataset.root={data}", "dataset.category=nut", f"run.root={root}"]
    small = ["dataset.image_size=64", "backbone.weights=random", "hardware=cpu", "train.steps=2"]
    return compose_config("train", [f"model=anomalib/{name}", *words, *small, *more])


def test_each_model_has_a_file():
    assert nested_options("model") == sorted(f"anomalib/{name}" for name in CLASSES)
    for name in CLASSES:
        section = OmegaConf.load(conf_folder() / "model" / "anomalib" / f"{name}.yaml").model
        assert (section.method, section.name) == (name, f"anomalib_{name}")


@pytest.mark.skipif(THERE, reason="anomalib is installed")
def test_without_the_package_one_line_says_what_to_install(data, tmp_path):
    with pytest.raises(UserError, match=r"pip install 'adbench\[baselines\]'"):
        train(config_of("padim", data, tmp_path), [], quiet)


def test_the_bundled_network_is_refused():
    with pytest.raises(UserError, match="set backbone=resnet18"):
        AnomalibModule(
            backbone=FeatureExtractor("bundled", ["layer2"]),
            synthesis=None,
            image_size=(64, 64),
            seed=0,
            method="padim",
        )


@needed
@pytest.mark.parametrize("name", CLASSES)
def test_a_model_trains_saves_and_scores_alike(name, data, tmp_path):
    config = config_of(name, data, tmp_path, "dataset.image_size=128")
    (folder,) = train(config, [], quiet)
    keys = settings(config)
    datamodule = build_datamodule(keys, read_samples(keys.dataset, ["nut"]))
    detector = load_detector(folder)
    (batch,) = datamodule.test_batches(16)
    with torch.no_grad():
        both = detector(batch.image)
        alone = detector(batch.image[:1])
    assert both.anomaly_map.shape == (6, 1, 128, 128)
    torch.testing.assert_close(alone.score, both.score[:1], rtol=1e-4, atol=1e-5)


@needed
def test_layers_that_were_not_loaded_are_not_downloaded():
    extractor = FeatureExtractor("resnet18.tv_in1k", ["layer1"])
    with pytest.raises(UserError, match=r"model\.layers|n_features"):
        AnomalibModule(
            backbone=extractor,
            synthesis=None,
            image_size=(64, 64),
            seed=0,
            method="padim",
            options={"layers": ["layer1", "layer2"]},
        )
