"""PatchCore as a whole: size of the bank, places, tokens, memory."""

from __future__ import annotations

import pytest
import torch

from adbench.backbones import FeatureExtractor
from adbench.config.schema import settings
from adbench.data.opening import read_samples
from adbench.errors import UserError
from adbench.methods.patchcore.detector import PatchcoreDetector
from adbench.methods.patchcore.module import PatchcoreModule
from adbench.training.data import build_datamodule
from tests.conformance.test_methods import configured, data

assert data  # the fixture


@pytest.fixture(scope="module")
def datamodule(data):
    config = configured("patchcore", data, "x")
    keys = settings(config)
    return build_datamodule(keys, read_samples(keys.dataset, ["nut"]), all_normals=True)


def prepared(datamodule, layers=("layer2", "layer3"), **keys):
    module = PatchcoreModule(
        backbone=FeatureExtractor("bundled", list(layers)),
        synthesis=None,
        image_size=(64, 64),
        seed=0,
        **keys,
    )
    module.prepare(datamodule)
    return module


@pytest.mark.parametrize(
    ("keys", "rows"),
    [({"bank": 30}, 30), ({"share": 0.1}, 45), ({"share": 1.0}, 448), ({"max_memory": 0}, 1)],
)
def test_the_bank_is_as_large_as_asked(keys, rows, datamodule):
    bank = prepared(datamodule, **keys).detector.bank  # 7 images of 8 x 8 positions
    assert len(bank) == rows
    assert bank.kept.dtype == torch.float16


def test_what_is_in_the_bank_is_at_distance_zero(datamodule):
    detector = prepared(datamodule, share=1.0).detector
    image = datamodule.train_images(torch.tensor([2]))
    with torch.no_grad():
        rows = detector.rows(image)
        assert float(detector.distances(rows).amax()) < 0.01 * float(rows.norm(dim=-1).mean())


def test_positional_matching_is_the_farther_the_place_the_dearer(datamodule):
    detector = prepared(datamodule, share=1.0, match="positional", reach=0.1).detector
    rows = detector.rows(datamodule.train_images(torch.tensor([2])))
    with torch.no_grad():
        here = detector.distances(rows)
        shifted = detector.distances(rows.view(1, 8, 8, -1).roll(4, 2).flatten(1, 2))
    assert float(here.amax()) < 0.1
    assert float(shifted.mean()) > 10 * float(here.mean())


def test_a_drawn_part_of_the_candidates_is_drawn_by_seed(datamodule):
    one, two = (prepared(datamodule, max_memory=100_000, share=0.5).detector for _ in range(2))
    assert torch.equal(one.bank.kept, two.bank.kept)
    assert len(one.bank) < 224


def test_layers_from_coarse_to_fine_are_refused():
    with pytest.raises(UserError, match="finest first"):
        PatchcoreDetector(FeatureExtractor("bundled", ["layer3", "layer2"]), (64, 64), 1)


def test_tokens_of_a_transformer_are_not_averaged_again():
    extractor = FeatureExtractor("vit_tiny_patch16_224", [2, 5])
    detector = PatchcoreDetector(extractor, (64, 48), 4).eval()
    assert detector.aggregation.patch == 1
    assert detector.grid == (4, 3)
    with torch.no_grad():
        assert detector(torch.rand(2, 3, 64, 48)).anomaly_map.shape == (2, 1, 64, 48)
