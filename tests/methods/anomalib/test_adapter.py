"""anomalib's models behind our contracts; without the package: what is said."""

from __future__ import annotations

import importlib.util

import cv2
import numpy as np
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
from adbench.methods.anomalib.theirs import CLASSES, DOWNLOADING
from adbench.methods.base import load_detector
from adbench.training.data import build_datamodule
from adbench.training.session import train
from tests.conformance.test_methods import data, quiet

assert data  # the fixture
THERE = importlib.util.find_spec("anomalib") is not None
needed = pytest.mark.skipif(not THERE, reason="the extra baselines (anomalib) is not installed")


def config_of(name, data, root, *more):
    words = ["dataset=mvtec", f"dataset.root={data}", "dataset.category=nut", f"run.root={root}"]
    small = ["dataset.image_size=64", "hardware=cpu", "train.steps=2"]
    small += ["backbone.weights=random"] if CLASSES[name].reads != "nothing" else []
    return compose_config("train", [f"model=anomalib/{name}", *words, *small, *more])


# what a model needs to be small, or to be built at all
OWN = {
    "cflow": ["+model.options.coupling_blocks=2"],
    "fastflow": ["+model.options.flow_steps=2"],
    "draem": ["model.options.dtd_dir=TEXTURES"],
}


def test_each_model_has_a_file():
    known = (*CLASSES, *DOWNLOADING)
    assert nested_options("model") == sorted(f"anomalib/{name}" for name in known)
    for name in known:
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


def reads_pictures():
    """Whether torchvision's decoders load."""
    from torchvision.io import decode_image, encode_png

    try:
        decode_image(encode_png(torch.zeros(3, 4, 4, dtype=torch.uint8)))
    except (RuntimeError, AttributeError):
        return False
    return True


@needed
@pytest.mark.parametrize("name", CLASSES)
def test_a_model_trains_saves_and_scores_alike(name, data, tmp_path):
    textures = tmp_path / "textures"
    textures.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(textures / "noise.png"), noise)
    if name == "draem" and not reads_pictures():
        pytest.skip("DRAEM reads its textures by torchvision's own decoders, which are absent here")
    own = [word.replace("TEXTURES", str(textures)) for word in OWN.get(name, [])]
    side = 112 if CLASSES[name].reads == "vit" else 128
    config = config_of(name, data, tmp_path / "runs", f"dataset.image_size={side}", *own)
    (folder,) = train(config, [], quiet)
    keys = settings(config)
    datamodule = build_datamodule(keys, read_samples(keys.dataset, ["nut"]))
    detector = load_detector(folder)
    (batch,) = datamodule.test_batches(16)
    with torch.no_grad():
        both = detector(batch.image)
        alone = detector(batch.image[:1])
    assert both.anomaly_map.shape == (6, 1, side, side)
    torch.testing.assert_close(alone.score, both.score[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*DOWNLOADING, "draem"])
def test_what_would_download_says_so_first(name):
    with pytest.raises(UserError, match="would download"):
        AnomalibModule(backbone=None, synthesis=None, image_size=(64, 64), seed=0, method=name)


@pytest.mark.parametrize(
    ("name", "network", "wanted"),
    [("dinomaly", "resnet18", "dinov2_small"), ("stfpm", "vit_tiny_patch16_224", "resnet18")],
)
def test_a_network_of_another_kind_is_refused(name, network, wanted):
    layers = [11] if network.startswith("vit") else ["layer2"]
    extractor = FeatureExtractor(network, layers)
    with pytest.raises(UserError, match=f"set backbone={wanted}"):
        AnomalibModule(backbone=extractor, synthesis=None, image_size=(64, 64), seed=0, method=name)


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
