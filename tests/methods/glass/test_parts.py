"""Losses, projection, hypothesis, centre."""

import math

import cv2
import numpy as np
import pytest
import torch

from adbench.config.typed import from_mapping
from adbench.errors import UserError
from adbench.methods.glass.centre import feature_mean
from adbench.methods.glass.hypothesis import judge, mean_image, write_verdict
from adbench.methods.glass.losses import focal_terms, hard_rows, las_loss, linear_quantile
from adbench.methods.glass.projection import clamp_of, project
from adbench.methods.glass.settings import (
    GasKeys,
    LossKeys,
)


@pytest.mark.shared
def test_focal_loss_equals_the_release(shared):
    stored = np.load(shared / "judges/methods/glass/focal.npz")
    probability = torch.from_numpy(stored["prob"][:, 0]).double().requires_grad_()
    loss = focal_terms(probability, torch.from_numpy(stored["target"][:, 0]).double()).mean()
    loss.backward()
    assert loss.item() == pytest.approx(float(stored["loss"]), abs=1e-5)
    wanted = stored["grad_prob"][:, 0]
    np.testing.assert_allclose(probability.grad.numpy(), wanted, atol=1e-5, rtol=1e-4)


def test_focal_loss_of_an_undecided_row():
    half = focal_terms(torch.tensor([0.5]).double(), torch.tensor([1.0]).double())
    assert float(half) == pytest.approx(0.25 * math.log(2), abs=1e-4)


def test_losses_are_finite_at_saturated_logits():
    logits = torch.tensor([-1e4, 1e4, 1e4, -1e4], requires_grad=True)
    target = torch.tensor([0.0, 1.0, 0.0, 1.0])
    for kind in ("focal", "bce"):
        loss = las_loss(logits, target, LossKeys(las=kind, ohem=0.0))
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


def test_ohem_keeps_at_least_its_share_and_zero_keeps_all():
    probability, target = torch.rand(101), (torch.rand(101) > 0.5).float()
    assert int(hard_rows(probability, target, 0.0).sum()) == 101
    assert int(hard_rows(probability, target, 0.5).sum()) >= 51


def test_quantile_is_numpys():
    values = torch.rand(37).double()
    for share in (0.0, 0.3, 0.75, 1.0):
        wanted = np.quantile(values.numpy(), share)
        assert float(linear_quantile(values, share)) == pytest.approx(wanted)


def test_projection_clamps_is_idempotent_and_the_identity_inside():
    torch.manual_seed(0)
    base, offset = torch.randn(50, 6).double(), torch.randn(50, 6).double()
    low, high = torch.tensor(2.0).double(), torch.tensor(3.0).double()
    moved, clamped = project(base + offset, base, low, high)
    norm = torch.linalg.vector_norm(moved - base, dim=1)
    assert float(norm.min()) >= 2 - 1e-8
    assert float(norm.max()) <= 3 + 1e-8
    again, _ = project(moved, base, low, high)
    assert torch.allclose(again, moved, atol=1e-8)
    assert torch.allclose(moved[~clamped], (base + offset)[~clamped], atol=1e-8)


def test_clamp_slope_is_the_derivative_of_its_factor():
    norm = torch.tensor([0.2, 1.0, 2.7]).double().requires_grad_()
    low, high = torch.tensor(0.5).double(), torch.tensor(2.0).double()
    factor = norm.clamp(low, high) / (norm + 1e-10)
    (wanted,) = torch.autograd.grad(factor.sum(), norm)
    found = clamp_of(norm.detach(), low, high)
    assert torch.allclose(found.slope, wanted)
    assert found.clamped.tolist() == [True, False, True]


@pytest.mark.shared
def test_spectrum_judgement_equals_the_release(shared):
    stored = np.load(shared / "judges/methods/glass/distribution.npz")
    for i in range(5):
        image = stored[f"image{i}"].astype(np.uint8)
        bits = np.unpackbits(stored[f"binary_packed{i}"].astype(np.uint8))[: 289 * 289]
        verdict = judge(image)
        np.testing.assert_array_equal(verdict.spectrum, bits.reshape(289, 289) > 0)
        assert verdict.hypersphere == bool(stored[f"flag{i}"]), i
        assert verdict.points == int(stored[f"count{i}"])


def test_a_constant_image_is_a_manifold_and_a_verdict_is_written(tmp_path):
    verdict = judge(mean_image([torch.full((2, 3, 20, 20), 0.5)]))
    assert verdict.hypothesis == "manifold"
    write_verdict(verdict, tmp_path)
    drawn = cv2.imread(str(tmp_path / "hypothesis.png"))
    mean, grey, bright = np.hsplit(drawn, 3)
    assert (mean == 127).all()
    assert grey[144, 144].tolist() == [255] * 3  # all of a constant image is in the origin
    assert grey[10, 10].tolist() == [0] * 3
    assert set(np.unique(bright)) <= {0, 255}
    assert "manifold" in (tmp_path / "hypothesis.txt").read_text()


def test_centre_is_the_adapted_mean_whatever_the_batches(small):
    head, first, second = small()
    rows = torch.cat([first.rows().view(2, 36, 24), second.rows().view(2, 36, 24)])
    mean = feature_mean([first, second], "position").double()
    assert torch.allclose(mean, rows.mean(0), atol=1e-6)
    assert torch.equal(mean, feature_mean([second, first], "position").double())
    adapted = head.adapted(rows.reshape(-1, 24)).view(4, 36, 24).mean(0)
    assert torch.allclose(head.adapted(mean), adapted, atol=1e-5)
    scalar = feature_mean([first, second], "scalar").double()
    assert torch.allclose(scalar, rows.mean((0, 1)).expand(36, 24), atol=1e-6)


def test_unknown_and_impossible_keys_are_refused():
    with pytest.raises(UserError, match="did you mean 'step_size'"):
        from_mapping(GasKeys, {"stepsize": 1}, "model.gas")
    with pytest.raises(UserError, match="r1 <= r2"):
        GasKeys(r1=2.0)
    with pytest.raises(UserError, match="choose one of focal, bce"):
        from_mapping(LossKeys, {"las": "dice"}, "model.loss")
    with pytest.raises(UserError, match=r"model\.loss\.las_weight=0"):
        from_mapping(LossKeys, {"las_weight": 0}, "model.loss")
