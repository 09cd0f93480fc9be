"""SimpleNet: the detector is the head, the loss is the truncated one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from adbench.backbones import FeatureExtractor
from adbench.config.schema import settings
from adbench.data.opening import read_samples
from adbench.methods.simplenet.module import SimplenetModule
from adbench.training.data import build_datamodule
from tests.conformance.test_methods import configured, data

assert data  # the fixture


@pytest.fixture
def module(data):
    config = configured("simplenet", data, "x")
    keys = settings(config)
    datamodule = build_datamodule(keys, read_samples(keys.dataset, ["nut"]), all_normals=True)
    torch.manual_seed(0)
    found = SimplenetModule(
        backbone=FeatureExtractor("bundled", ["layer2", "layer3"]),
        synthesis=None,
        image_size=(64, 64),
        seed=0,
        hidden=16,
        noise={"sigma": 0.5, "unit": "column"},
    )
    found.prepare(datamodule)
    found.trainer = SimpleNamespace(current_epoch=0)
    return found


def test_the_folded_detector_is_the_head_in_eval_mode(module):
    rows = module._rows(torch.arange(3))
    module.head.train()
    module.head.discriminator(module.head.adapted(rows))  # moves running statistics
    module.head.eval()
    module.refresh()
    with torch.no_grad():
        logits = module.head.discriminator(module.head.adapted(rows))
        found = module.detector.distances(rows.view(3, 64, -1))
    torch.testing.assert_close(found.flatten(), -logits, rtol=1e-4, atol=1e-4)


def test_noise_is_scaled_by_each_columns_deviation(module):
    rows = module._rows(torch.arange(7))
    torch.testing.assert_close(module._unit, rows.std(0))
