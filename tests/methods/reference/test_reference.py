"""The reference: median and deviation by hand."""

from __future__ import annotations

import numpy as np
import torch

from adbench.config.schema import settings
from adbench.data.opening import read_samples
from adbench.methods.reference.module import ReferenceModule
from adbench.training.data import build_datamodule
from tests.conformance.test_methods import configured, data

assert data  # the fixture


@torch.no_grad()
def test_the_map_counts_deviations_from_the_median(data):
    config = configured("reference", data, "x")
    keys = settings(config)
    datamodule = build_datamodule(keys, read_samples(keys.dataset, ["nut"]), all_normals=True)
    module = ReferenceModule(
        backbone=None, synthesis=None, image_size=(64, 64), seed=0, floor=0.1, sigma=0
    )
    module.prepare(datamodule)
    pixels = datamodule.train_images(torch.arange(7)).numpy()
    median = np.median(pixels, 0)
    deviation = 1.4826 * np.median(np.abs(pixels - median), 0) + 0.1
    expected = (np.abs(pixels - median) / deviation).max(1)
    score, found = module.detector(torch.from_numpy(pixels))
    assert np.allclose(found[:, 0], expected, atol=1e-4)
    assert np.allclose(score, expected.max((1, 2)), atol=1e-4)
