"""Facts about residuals in the metric of normal ones."""

from __future__ import annotations

import pytest
import torch

from adbench.methods.base import load_detector, save_detector
from adbench.methods.glad.residuals import WhitenedResiduals
from tests.methods.glad.conftest import SIZE, glad
from tests.methods.glad.test_module import prepared


def drawn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def fitted():
    """Two layers whose residuals vary tenfold along channel 0; the reconstruction is zero."""
    stretch = torch.tensor([10.0, 1.0, 1.0]).view(1, 3, 1, 1)
    normal = [[drawn(64, 3, 4, 4, seed=i) * stretch + 5, drawn(64, 2, 2, 2, seed=9)] for i in (0,)]
    model = WhitenedResiduals([3, 2])
    model.fit((maps, [torch.zeros_like(m) for m in maps]) for maps in normal)
    return model


def test_a_residual_counts_by_how_rare_it_is_among_normal_ones(fitted):
    usual, rare = torch.full((1, 3, 1, 1), 5.0), torch.full((1, 3, 1, 1), 5.0)
    usual[0, 0], rare[0, 1] = 15, 15  # one deviation along channel 0, ten along channel 1
    zero, other = torch.zeros(1, 3, 1, 1), torch.zeros(1, 2, 2, 2)
    found = [fitted([x, other], [zero, other])[0] for x in (usual, rare)]
    assert float(found[1]) > 5 * float(found[0]) > 0 or float(found[0]) < 0 < float(found[1])


def test_normal_distances_have_mean_0_and_deviation_1_in_every_layer(fitted):
    stretch = torch.tensor([10.0, 1.0, 1.0]).view(1, 3, 1, 1)
    maps = [drawn(64, 3, 4, 4, seed=0) * stretch + 5, drawn(64, 2, 2, 2, seed=9)]
    for found in fitted(maps, [torch.zeros_like(m) for m in maps]):
        assert float(found.mean()) == pytest.approx(0, abs=1e-4)
        assert float(found.std()) == pytest.approx(1, abs=1e-3)


def test_the_distance_is_mahalanobis_with_a_ridge(fitted):
    rows = (drawn(64, 3, 4, 4, seed=0) * torch.tensor([10.0, 1, 1]).view(1, 3, 1, 1) + 5).double()
    flat = rows.movedim(1, -1).flatten(0, 2)
    covariance = flat.mT.cov(correction=0)
    covariance += 0.01 * covariance.diagonal().mean() * torch.eye(3)
    centred = flat - flat.mean(0)
    expected = (centred @ torch.linalg.inv(covariance) * centred).sum(1).sqrt()
    found = fitted._distance(rows.float(), 0).flatten()
    assert torch.allclose(found, expected.float(), rtol=1e-3)


@torch.no_grad()
def test_the_metric_is_saved_with_the_detector_and_ignores_the_batch(
    backbone, datamodule, tmp_path
):
    module = prepared(glad(backbone, score={"distance": "whitened"}), datamodule, tmp_path)
    module.finish(datamodule)
    assert float(module.detector.residuals.centre[0]) > 0
    save_detector(module.detector, tmp_path)
    again = load_detector(tmp_path)
    image = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    alone = torch.cat([again(one[None]).score for one in image])
    assert torch.allclose(alone, module.detector(image).score, atol=1e-4)
