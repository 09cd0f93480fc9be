"""Closed forms and brute force for the parts of ULSAD."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from adbench.backbones.feature_cache import FeatureCache
from adbench.config.typed import from_mapping
from adbench.errors import UserError
from adbench.methods.ulsad.attention import attended, attention_peak
from adbench.methods.ulsad.autoencoder import GlobalAutoencoder
from adbench.methods.ulsad.features import FeaturePooling, pool_channels
from adbench.methods.ulsad.losses import (
    attention_loss,
    distance,
    distance_map,
    local_global_loss,
    local_loss,
)
from adbench.methods.ulsad.maps import blurred_upsample, normalised, quantiles
from adbench.methods.ulsad.reconstruction import ReconstructionNetwork
from adbench.methods.ulsad.settings import (
    AutoencoderKeys,
    CacheKeys,
    FrnKeys,
    LossKeys,
    MapKeys,
)


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_pooling_of_a_ramp_averages_four_neighbours():
    ramp = torch.arange(1536.0).view(1, -1, 1, 1)
    wanted = torch.arange(384) * 4 + 1.5
    assert torch.equal(pool_channels(ramp, 384).flatten(), wanted)


def test_pooling_before_upsampling_equals_pooling_after():
    fine, coarse = noise(2, 16, 8, 8), noise(2, 32, 4, 4, seed=1)
    pooling = FeaturePooling([16, 32], 12).double()
    joined = torch.cat([fine, F.interpolate(coarse, size=(8, 8), mode="bilinear")], 1)
    torch.testing.assert_close(
        pooling.joined(pooling.native([fine, coarse])), pool_channels(joined, 12)
    )


def test_standardised_features_have_mean_zero_and_population_variance_one():
    x = noise(5, 6, 3, 4) * 7 + 30
    x[:, 2] = 4.0  # a constant channel must not divide by zero
    pooling = FeaturePooling([6], 6).double()
    pooling.set_statistics(x.split(2))
    u = pooling([x])
    moving = [0, 1, 3, 4, 5]
    assert float(u.mean((0, 2, 3)).abs().max()) < 1e-9
    spread = u.var((0, 2, 3), unbiased=False)[moving]
    torch.testing.assert_close(spread, torch.ones_like(spread))
    assert torch.isfinite(u).all()


def test_too_few_channels_are_refused():
    with pytest.raises(UserError, match=r"model\.channels=20.*have 12"):
        FeaturePooling([4, 8], 20)


@pytest.mark.parametrize("size", [(256, 256), (256, 320), (288, 512)])
def test_autoencoder_returns_an_eighth_of_any_size(size):
    net = GlobalAutoencoder(5, AutoencoderKeys(narrow=2, wide=2)).eval()
    assert net(torch.rand(1, 3, *size)).shape == (1, 5, size[0] // 8, size[1] // 8)


def test_reconstruction_halves_keep_the_size_and_bottleneck_defaults_to_four_times():
    net = ReconstructionNetwork(6, FrnKeys()).eval()
    local, second = net(torch.randn(1, 6, 8, 12))
    assert local.shape == second.shape == (1, 6, 8, 12)
    assert net.conv3.conv.weight.shape[:2] == (24, 24)
    assert float(local.detach().min()) >= 0  # the published output cannot be negative


def test_final_activation_and_order_are_switches():
    x = torch.randn(4, 6, 8, 8)
    free = ReconstructionNetwork(6, FrnKeys(out_act="none", order="conv_act_bn"))
    assert float(torch.cat(free(x), 1).detach().min()) < 0


def test_full_width_parameter_counts():
    frn = ReconstructionNetwork(384, FrnKeys())
    ae = GlobalAutoencoder(384, AutoencoderKeys())
    assert sum(p.numel() for p in frn.parameters()) / 1e6 == pytest.approx(65.5, abs=0.1)
    assert sum(p.numel() for p in ae.parameters()) / 1e6 == pytest.approx(1.03, abs=0.01)


def test_distance_closed_forms():
    a = noise(2, 5, 3, 3)
    assert float(distance(a, a, 0.5)) == pytest.approx(0, abs=1e-12)
    direction = distance_map(a, -a, 1.0) - distance_map(a, -a, 0.0)
    torch.testing.assert_close(direction, torch.full_like(direction, 2))
    scaled = distance_map(3 * a, a, 1.0) - distance_map(3 * a, a, 0.0)
    assert float(scaled.abs().max()) < 1e-12 < float(distance(3 * a, a, 0.0))


def brute_attention(query, features):
    out = torch.empty_like(query)
    for image in range(query.shape[0]):
        x, z = query[image].flatten(1), features[image].flatten(1)
        for q in range(x.shape[1]):
            logits = [float(z[:, p] @ x[:, q]) / math.sqrt(x.shape[0]) for p in range(z.shape[1])]
            weights = [math.exp(v - max(logits)) for v in logits]
            mixed = sum(w / sum(weights) * z[:, p] for p, w in enumerate(weights))
            out[image].view(x.shape)[:, q] = mixed
    return out


@pytest.mark.parametrize("kernel", ["full", "fused"])
def test_attention_equals_a_double_loop(kernel):
    query, features = noise(2, 4, 3, 3), noise(2, 4, 3, 3, seed=1)
    torch.testing.assert_close(
        attended(query, features, kernel), brute_attention(query, features), atol=1e-12, rtol=0
    )


def test_attention_limits():
    z = noise(1, 4, 3, 3)
    same = z[:, :, :1, :1].expand(1, 4, 3, 3)
    torch.testing.assert_close(attended(noise(1, 4, 3, 3, seed=2), same), same)
    mean = z.mean((2, 3), keepdim=True).expand_as(z)
    torch.testing.assert_close(attended(torch.zeros_like(z), z), mean)
    query = noise(1, 4, 3, 3, seed=3)
    best = (z.flatten(2).mT @ query.flatten(2)).argmax(1)
    nearest = z.flatten(2)[0][:, best[0]].view_as(z)
    torch.testing.assert_close(attended(query * 1e4, z), nearest)
    assert float(attention_peak(query * 1e4, z)) == pytest.approx(1)
    assert float(attention_peak(torch.zeros_like(z), z)) == pytest.approx(1 / 9)


def test_attention_loss_vanishes_when_the_autoencoder_returns_the_features():
    z = noise(2, 4, 3, 3)
    assert float(attention_loss(z, z, attended(z, z), LossKeys())) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kernel", ["full", "fused"])
def test_attention_loss_gradient_equals_finite_differences(kernel):
    z = noise(1, 4, 3, 3)
    target, query = attended(z, z), noise(1, 4, 3, 3, seed=5).requires_grad_()
    keys = LossKeys(lambda_a=0.7)
    assert torch.autograd.gradcheck(lambda q: attention_loss(q, z, target, keys, kernel), query)


def gradients(loss, net, ae):
    parameters = [*net.parameters(), *ae.parameters()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    count = len(list(net.parameters()))
    sizes = [0.0 if g is None else float(g.abs().max()) for g in found]
    return max(sizes[:count]), max(sizes[count:])


def test_which_loss_reaches_which_network():
    net = ReconstructionNetwork(4, FrnKeys(mid=8))
    ae = GlobalAutoencoder(4, AutoencoderKeys(narrow=2, wide=2))
    u, image = torch.randn(4, 4, 32, 32), torch.rand(4, 3, 256, 256)
    (local, second), encoded = net(u), ae(image)
    keys = LossKeys()
    frn, auto = gradients(local_loss(local, u, keys), net, ae)
    assert frn > 0 == auto
    (local, second), encoded = net(u), ae(image)
    frn, auto = gradients(attention_loss(encoded, u, attended(u, u), keys), net, ae)
    assert auto > 0 == frn
    (local, second), encoded = net(u), ae(image)
    assert min(gradients(local_global_loss(second, encoded, keys), net, ae)) > 0
    (local, second), encoded = net(u), ae(image)
    frn, auto = gradients(local_global_loss(second, encoded, LossKeys(detach=True)), net, ae)
    assert frn > 0 == auto


def slow_map(grid, size, sigma):
    full = F.interpolate(grid, size=size, mode="bilinear")
    offset = torch.arange(-16, 17, dtype=grid.dtype)
    row = torch.exp(-0.5 * (offset / sigma) ** 2)
    kernel = torch.outer(row, row) / row.sum() ** 2
    return F.conv2d(F.pad(full, (16,) * 4, mode="reflect"), kernel.view(1, 1, 33, 33))


def test_one_matrix_per_axis_equals_resize_then_dense_blur():
    grid = noise(3, 1, 8, 12)
    torch.testing.assert_close(
        blurred_upsample(grid, (64, 96), 4.0), slow_map(grid, (64, 96), 4.0), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(
        blurred_upsample(grid, (64, 96), 0.0), F.interpolate(grid, size=(64, 96), mode="bilinear")
    )
    flat = torch.full((1, 1, 8, 8), 2.5)
    torch.testing.assert_close(
        blurred_upsample(flat, (64, 64), 4.0), torch.full((1, 1, 64, 64), 2.5)
    )


@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_normalisation_forgets_shift_and_scale(shift, scale):
    maps = noise(2, 1, 6, 6)
    made = []
    for x in (maps, maps * scale + shift):
        low, high = quantiles(x.numpy(), 0.9, 0.995)
        made.append(normalised(x, torch.tensor(low).double(), torch.tensor(high).double()))
    torch.testing.assert_close(made[0], made[1], atol=1e-6, rtol=1e-6)


def test_quantiles_pool_all_pixels_and_map_to_zero_and_a_tenth():
    maps = noise(3, 1, 9, 7)
    low, high = quantiles(maps.numpy(), 0.9, 0.995)
    ordered = np.sort(maps.numpy().ravel())
    place = 0.9 * (len(ordered) - 1)
    left = int(place)
    wanted = ordered[left] + (place - left) * (ordered[left + 1] - ordered[left])
    assert low == pytest.approx(wanted, abs=1e-12)
    ends = normalised(torch.tensor([low, high]), torch.tensor(low), torch.tensor(high))
    torch.testing.assert_close(ends, torch.tensor([0.0, 0.1]))
    same = torch.tensor(1.0)
    assert torch.isfinite(normalised(torch.ones(2), same, same)).all()


@pytest.mark.parametrize("limit", [1 << 20, 0])
def test_feature_cache_returns_what_was_stored_in_memory_or_on_disk(limit):
    fine, coarse = noise(7, 2, 3, 3).float(), noise(7, 4, 2, 2, seed=1).float()
    cache = FeatureCache(7, max_memory=limit)
    cache.fill(torch.arange(7).split(3), lambda i: [fine[i], coarse[i]])
    index = torch.tensor([5, 0, 5])
    for found, true in zip(cache(index), (fine, coarse), strict=True):
        assert torch.equal(found, true[index].half().float())
    assert cache.mapped == (limit == 0)
    assert cache.nbytes == 7 * (18 + 16) * 2


def test_feature_cache_counts_its_images():
    with pytest.raises(ValueError, match="3 images stored, 4 announced"):
        FeatureCache(4).fill([torch.zeros(3, 1)], lambda x: [x])
    with pytest.raises(UserError, match="float16, float32"):
        FeatureCache(1, dtype="int8")


@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        (LossKeys, {"lamda_l": 0.1}, "did you mean 'lambda_l'"),
        (LossKeys, {"global_term": "atention"}, "did you mean 'attention'"),
        (LossKeys, {"global_term": "none"}, "nothing ties the autoencoder"),
        (LossKeys, {"global_term": "none", "local": False, "local_global": False}, "every term"),
        (MapKeys, {"alpha": 0.999}, "must be below"),
        (FrnKeys, {"mid": 6}, "multiple of 4"),
        (CacheKeys, {"features": False}, "needs model.cache.features"),
    ],
)
def test_wrong_keys_are_named(kind, values, text):
    with pytest.raises(UserError, match=text):
        from_mapping(kind, values, "model.loss")
