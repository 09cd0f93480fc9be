"""Parity with arrays made by the authors' code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adbench.methods.ulsad.attention import attended
from adbench.methods.ulsad.autoencoder import GlobalAutoencoder
from adbench.methods.ulsad.features import FeaturePooling
from adbench.methods.ulsad.losses import (
    attention_loss,
    distance_map,
    local_global_loss,
    local_loss,
    total,
)
from adbench.methods.ulsad.maps import blurred_upsample, normalised, quantiles
from adbench.methods.ulsad.reconstruction import ReconstructionNetwork
from adbench.methods.ulsad.settings import AutoencoderKeys, FrnKeys, LossKeys

pytestmark = pytest.mark.shared

FRN_CONVS = {f"conv{n}": f"conv{n}.conv" for n in (1, 2, 3)} | {
    f"deconv{n}": f"up{n}.conv" for n in (1, 2, 3)
}
FRN_NORMS = {f"bn{n}": f"conv{n}.norm" for n in (1, 2, 3)} | {
    f"bn{n + 3}": f"up{n}.norm" for n in (1, 2, 3)
}
AE = (
    {f"enconv{n}": f"encoder.{n - 1}" for n in range(1, 7)}
    | {f"deconv{n}": f"decoder.{n - 1}" for n in range(1, 6)}
    | {"deconv7": "decoder.5", "deconv8": "out"}
    | {f"bn2d{n}": f"norms.{n - 1}" for n in range(1, 13)}
)


def ours(name, table):
    layer, _, leaf = name.rpartition(".")
    return f"{table[layer]}.{leaf}"


def state(arrays, table, prefix="sd."):
    return {
        ours(k[len(prefix) :], table): v
        for k, v in arrays.items()
        if k.startswith(prefix) and k[len(prefix) :].rpartition(".")[0] in table
    }


def relative(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))


def picture(batch, side):
    b, c = np.arange(batch)[:, None, None, None], np.arange(3)[None, :, None, None]
    i, j = np.arange(side)[None, None, :, None], np.arange(side)[None, None, None, :]
    wave = np.sin(0.07 * i * (1 + 0.13 * b) + 0.11 * j * (1 - 0.09 * b) + c + 1.7 * b)
    return torch.from_numpy((0.5 + 0.5 * wave).astype(np.float32))


@pytest.mark.parametrize(("channels", "tail"), [(12, ""), (10, ""), (12, "_rect")])
def test_pooled_features_equal_the_authors(judge, channels, tail):
    arrays = judge("pooling")
    pooling = FeaturePooling([16, 32], channels)
    native = pooling.native([arrays["layer2" + tail], arrays["layer3" + tail]])
    assert pooling.aligned == (channels == 12)
    torch.testing.assert_close(
        pooling.joined(native), arrays[f"out{channels}{tail}"], atol=2e-6, rtol=0
    )


def test_channel_statistics_equal_the_authors(judge):
    arrays = judge("channel_stats")
    pooling = FeaturePooling([6], 6)
    pooling.set_statistics(arrays["features"].split(3))
    torch.testing.assert_close(pooling.mean, arrays["mean"], atol=2e-5, rtol=0)
    torch.testing.assert_close(pooling.std, arrays["std"], atol=2e-5, rtol=0)


def test_reconstruction_network_equals_the_authors(judge):
    arrays = judge("frn_small")
    table = FRN_CONVS | FRN_NORMS
    net = ReconstructionNetwork(8, FrnKeys())
    net.load_state_dict(state(arrays, table), strict=False)
    assert set(state(arrays, table)) >= {name for name, _ in net.named_parameters()}
    local, second = net.eval()(arrays["x"])
    torch.testing.assert_close(torch.cat([local, second], 1), arrays["y_eval"], atol=1e-4, rtol=0)
    x = arrays["x"].clone().requires_grad_()
    y = torch.cat(net.train()(x), 1)
    (y * arrays["cotangent"]).sum().backward()
    assert relative(y.detach(), arrays["y_train"]) < 1e-3
    assert relative(x.grad, arrays["gx_train"]) < 1e-3
    compare_gradients(net, arrays, table)
    after = state(arrays, table, "after.")
    assert after
    for name, value in after.items():
        if "running" in name:
            torch.testing.assert_close(net.state_dict()[name], value, atol=1e-4, rtol=1e-4)


def compare_gradients(net, arrays, table):
    wanted = state(arrays, table, "g_train.")
    largest = max(float(value.abs().max()) for value in wanted.values())
    assert wanted
    for name, parameter in net.named_parameters():
        if name in wanted:
            assert float((parameter.grad - wanted[name]).abs().max()) < 1e-3 * largest, name


@pytest.fixture
def small_autoencoder(judge):
    arrays = judge("global_ae_small")
    net = GlobalAutoencoder(6, AutoencoderKeys(narrow=4, wide=8))
    net.load_state_dict(state(arrays, AE), strict=False)
    return net, arrays


@pytest.mark.parametrize("side", [256, 288, 320])
def test_autoencoder_equals_the_authors(small_autoencoder, side):
    net, arrays = small_autoencoder
    x, step = picture(4, side), 1 if side == 256 else 2
    with torch.no_grad():
        made = net.eval()(x)
        assert made.shape[-2:] == (side // 8, side // 8)
        found = made[:, :, ::step, ::step]
        torch.testing.assert_close(found, arrays[f"y_eval_{side}"], atol=1e-4, rtol=0)
        train = net.train()(x)[:, :, ::step, ::step]
    assert relative(train, arrays[f"y_train_{side}"]) < 1e-3


def test_autoencoder_gradients_equal_the_authors(small_autoencoder):
    net, arrays = small_autoencoder
    y = net.train()(picture(4, 256))
    cotangent = torch.sin(0.3 * torch.arange(y.numel(), dtype=torch.float64)).float()
    (y * cotangent.view_as(y)).sum().backward()
    compare_gradients(net, arrays, AE)


@pytest.mark.parametrize("side", [256, 320])
def test_full_width_autoencoder_equals_the_authors(judge, shared, side):
    arrays = judge("global_ae_full")
    net = GlobalAutoencoder(384, AutoencoderKeys()).eval()
    own = dict(net.named_parameters())
    with np.load(shared / "judges/methods/ulsad/global_ae_full.npz") as raw:
        order = [str(name) for name in raw["param_order"]]
    with torch.no_grad():
        for number, name in enumerate(order):
            weight = own[ours(name, AE)]
            fan = weight[0].numel() if weight.ndim == 4 else 0
            j = np.arange(weight.numel())
            wave = np.sin(1.3 * j + 0.7 * number + 0.1 * np.sqrt(j))
            value = (wave / np.sqrt(fan) if fan else 0.1 * wave).astype(np.float32)
            weight.copy_(torch.from_numpy(value).view_as(weight))
        y = net(picture(2, side))
    sample = y[:, ::16, ::4, ::4]
    torch.testing.assert_close(sample, arrays[f"y_eval_{side}_sample"], atol=1e-4, rtol=0)
    torch.testing.assert_close(y.mean((2, 3)), arrays[f"y_eval_{side}_mean"], atol=1e-4, rtol=0)


def operands(arrays):
    z = (arrays["features_raw"] - arrays["mean"]) / arrays["std"]
    torch.testing.assert_close(z, arrays["features_norm"], atol=2e-5, rtol=0)
    return z


@pytest.mark.parametrize("tail", ["", "_lambda0"])
@pytest.mark.parametrize("kernel", ["full", "fused"])
def test_losses_and_gradients_equal_the_authors(judge, tail, kernel):
    arrays = judge("losses")
    z = operands(arrays)
    weights = (0.0, 0.0, 0.0) if tail else (0.5, 0.3, 0.7)
    keys = LossKeys(lambda_l=weights[0], lambda_g=weights[1], lambda_a=weights[2])
    recon = arrays["recon"].clone().requires_grad_()
    encoded = arrays["global_out"].clone().requires_grad_()
    local, second = recon.split(8, 1)
    parts = {
        "local": local_loss(local, z, keys),
        "global": attention_loss(encoded, z, attended(z, z, kernel), keys, kernel),
        "local_global": local_global_loss(second, encoded, keys),
    }
    found = total(parts)
    found.backward()
    wanted = arrays["total" + tail].reshape(())
    torch.testing.assert_close(found.detach(), wanted, atol=2e-5, rtol=0)
    torch.testing.assert_close(recon.grad, arrays["grad_recon" + tail], atol=2e-5, rtol=0)
    torch.testing.assert_close(encoded.grad, arrays["grad_global" + tail], atol=2e-5, rtol=0)


def test_single_terms_and_attention_equal_the_authors(judge):
    arrays = judge("losses")
    z, encoded = operands(arrays), arrays["global_out"]
    local, second = arrays["recon"].split(8, 1)
    keys = LossKeys(lambda_l=0.5, lambda_g=0.3, lambda_a=0.7)
    target = attended(z, z)
    close = {"atol": 2e-5, "rtol": 0}
    torch.testing.assert_close(target, arrays["self_attn"], **close)
    torch.testing.assert_close(attended(encoded, z), arrays["cross_attn"], **close)
    pairs = {
        "loss_local": local_loss(local, z, keys),
        "loss_attn": attention_loss(encoded, z, target, keys),
        "loss_localglobal": local_global_loss(second, z, keys),
    }
    for name, found in pairs.items():
        torch.testing.assert_close(found, arrays[name].reshape(()), **close)


def test_maps_quantiles_and_score_equal_the_authors(judge):
    arrays, where = judge("maps"), judge("losses")
    z = operands(where)
    local, second = where["recon"].split(8, 1)
    grids = {
        "local": distance_map(local, z, 0.5),
        "global": distance_map(second, where["global_out"], 0.3),
    }
    raw = {name: blurred_upsample(grid, (64, 64), 4.0) for name, grid in grids.items()}
    parts, marks = [], []
    for name, maps in raw.items():
        torch.testing.assert_close(maps, arrays[f"raw_{name}"], atol=2e-5, rtol=0)
        low, high = quantiles(maps.numpy(), 0.9, 0.995)
        marks += [low, high]
        parts.append(normalised(maps, torch.tensor(low), torch.tensor(high)))
        torch.testing.assert_close(parts[-1], arrays[f"norm_{name}"], atol=2e-4, rtol=0)
    torch.testing.assert_close(torch.tensor(marks), arrays["q"].flatten(), atol=2e-5, rtol=0)
    combined = (parts[0] + parts[1]) / 2
    torch.testing.assert_close(combined, arrays["norm_combined"], atol=2e-4, rtol=0)
    score = combined.amax((1, 2, 3))
    torch.testing.assert_close(score, arrays["image_score"].flatten(), atol=2e-4, rtol=0)
