"""The subspace: moments against numpy, residuals by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adbench.backbones import FeatureExtractor
from adbench.errors import UserError
from adbench.methods.subspace.detector import SubspaceDetector
from adbench.methods.subspace.module import SubspaceModule, explaining, moments


def test_moments_are_those_of_all_rows_whatever_the_batches():
    rows = torch.randn(300, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1e3
    mean, covariance = moments(rows.split([64, 100, 136]))
    assert np.allclose(mean, rows.double().mean(0), rtol=1e-9)
    assert np.allclose(covariance, np.cov(rows.double().numpy().T, bias=True), rtol=1e-5)


@pytest.mark.parametrize(
    ("share", "count"), [(0.5, 1), (0.6, 1), (0.61, 2), (0.9, 2), (0.95, 3), (0.9999, 3)]
)
def test_components_reach_the_share_and_leave_one_out(share, count):
    assert explaining(torch.tensor([6.0, 3.0, 0.9, 0.1]), share) == count


def test_constant_features_have_one_component():
    assert explaining(torch.zeros(4), 0.99) == 1


def test_the_distance_is_the_length_of_what_is_left():
    extractor = FeatureExtractor("bundled", ["layer3"])
    detector = SubspaceDetector(extractor, (64, 64), 1)
    mean = torch.full((256,), 2.0)
    detector.set_subspace(mean, torch.eye(256)[:, :10])
    rows = mean + torch.arange(256.0)
    expected = torch.arange(10.0, 256).norm()
    assert float(detector.distances(rows[None, None])) == pytest.approx(float(expected))


def test_as_many_components_as_columns_are_refused():
    with pytest.raises(UserError, match=r"model\.components=384"):
        SubspaceModule(
            backbone=FeatureExtractor("bundled", ["layer2", "layer3"]),
            synthesis=None,
            image_size=(64, 64),
            seed=0,
            components=384,
        )
