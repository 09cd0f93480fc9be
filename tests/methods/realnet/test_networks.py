"""Reconstruction networks, discriminator, losses and the image score."""

from __future__ import annotations

import pytest
import torch

from adbench.config.typed import from_mapping
from adbench.errors import UserError
from adbench.methods.realnet.detector import image_score
from adbench.methods.realnet.discriminator import Discriminator
from adbench.methods.realnet.losses import reconstruction_loss, segmentation_loss
from adbench.methods.realnet.reconstruction import reconstruction_network
from adbench.methods.realnet.settings import (
    ReconstructionKeys,
    RrsKeys,
)
from adbench.methods.realnet.weights import discriminator_state


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("channels", "millions"), [(256, 51.85), (512, 207.27)])
def test_parameters_of_the_papers_networks(channels, millions):
    with torch.device("meta"):
        net = reconstruction_network(channels, ReconstructionKeys())
    assert parameters(net) / 1e6 == pytest.approx(millions, abs=0.01)


def test_parameters_of_the_papers_discriminator():
    with torch.device("meta"):
        assert parameters(Discriminator(512)) / 1e6 == pytest.approx(5.87, abs=0.01)


@pytest.mark.parametrize("channels", [24, 64])
@pytest.mark.parametrize("kind", ["unet", "simple"])
def test_shape_is_kept(kind, channels):
    net = reconstruction_network(channels, ReconstructionKeys(kind=kind, mult=(1, 2, 2), blocks=1))
    assert net(torch.randn(2, channels, 8, 12)).shape == (2, channels, 8, 12)


def test_unet_starts_at_zero():
    net = reconstruction_network(32, ReconstructionKeys(blocks=1))
    assert net(torch.randn(1, 32, 8, 8)).abs().max() == 0


def test_perfect_output_costs_nothing():
    features = [torch.randn(2, 3, 4, 4)]
    assert reconstruction_loss(features, features).item() == 0
    mask = torch.rand(2, 1, 8, 8) > 0.5
    logits = torch.cat((~mask, mask), 1).float() * 100
    assert segmentation_loss(logits, mask).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_does_not_grow_with_the_batch(reduction):
    made, target = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    one = reconstruction_loss([made], [target], reduction)
    two = reconstruction_loss([made.repeat(2, 1, 1, 1)], [target.repeat(2, 1, 1, 1)], reduction)
    assert two.item() == pytest.approx(one.item(), rel=1e-6)


def test_sum_is_the_squared_norm_per_image():
    made, target = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    expected = (made - target).square().sum() / 2
    assert reconstruction_loss([made], [target], "sum").item() == pytest.approx(expected.item())


def test_image_score_of_a_square_and_of_a_pixel():
    maps = torch.zeros(2, 1, 40, 40)
    maps[0, 0, 5:21, 9:25] = 1
    maps[1, 0, 30, 3] = 1
    assert image_score(maps, 16).tolist() == [1.0, 1 / 256]
    assert image_score(maps, 1).tolist() == [1.0, 1.0]


def test_unknown_key_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"model.rrs; did you mean 'ratio'"):
        from_mapping(RrsKeys, {"ratoi": 0.5}, "model.rrs")
    with pytest.raises(UserError, match=r"rrs.mode=avg"):
        from_mapping(RrsKeys, {"mode": "avg"}, "model.rrs")


def test_papers_share_of_residuals():
    assert RrsKeys().counts(1536) == (256, 256)
    assert RrsKeys(mode="max").counts(1536) == (512, 0)
    assert RrsKeys(mode="none").counts(1536) == (0, 0)


def test_foreign_weight_names_are_refused():
    with pytest.raises(KeyError, match="decoder9"):
        discriminator_state({"decoder9.0.weight": torch.zeros(1)})
