"""PaDiM: Mahalanobis distances against numpy."""

from __future__ import annotations

import numpy as np
import torch

from adbench.backbones import FeatureExtractor
from adbench.config.schema import settings
from adbench.data.opening import read_samples
from adbench.methods.padim.module import PadimModule
from adbench.training.data import build_datamodule
from tests.conformance.test_methods import configured, data

assert data  # the fixture


@torch.no_grad()
def test_distances_are_mahalanobis_to_each_positions_gaussian(data):
    config = configured("padim", data, "x")
    keys = settings(config)
    datamodule = build_datamodule(keys, read_samples(keys.dataset, ["nut"]), all_normals=True)
    module = PadimModule(
        backbone=FeatureExtractor("bundled", ["layer2", "layer3"]),
        synthesis=None,
        image_size=(64, 64),
        seed=0,
        columns=6,
        ridge=0.5,
    )
    module.prepare(datamodule)
    detector = module.detector
    rows = detector.rows(datamodule.train_images(torch.arange(7))).double().numpy()
    found = detector.distances(torch.from_numpy(rows).float())
    for position in (0, 31, 63):
        own = rows[:, position]
        inverse = np.linalg.inv(np.cov(own.T, bias=True) + 0.5 * np.eye(6))
        off = own - own.mean(0)
        expected = np.sqrt(np.einsum("ni,ij,nj->n", off, inverse, off))
        assert np.allclose(found[:, position], expected, rtol=2e-3, atol=2e-3)


def test_columns_are_drawn_by_seed():
    def drawn(seed):
        extractor = FeatureExtractor("bundled", ["layer3"])
        module = PadimModule(
            backbone=extractor, synthesis=None, image_size=(64, 64), seed=seed, columns=9
        )
        return module.detector.index.tolist()

    assert drawn(0) == drawn(0) != drawn(1)
    assert len(set(drawn(0))) == 9
