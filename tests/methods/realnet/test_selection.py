"""AFS: the one-sweep loss, what it finds, what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from adbench.errors import UserError
from adbench.methods.realnet.blocks import BlockFeatures, blocks_of, candidates, kept_dims
from adbench.methods.realnet.selection import (
    afs_losses,
    afs_losses_plain,
    channel_losses,
    kept_channels,
    selection_notes,
)


def pairs(seed, channels=12, size=8, batch=3):
    g = torch.Generator().manual_seed(seed)
    normal = torch.randn(batch, channels, size, size, generator=g)
    mask = (torch.rand(batch, 1, size, size, generator=g) > 0.8).float()
    return normal + torch.randn(normal.shape, generator=g), normal, mask


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1e-3, 1.0, 30.0]), st.booleans())
def test_one_sweep_equals_the_loss_as_written(seed, scale, per_image):
    anomalous, normal, mask = pairs(seed)
    fast = afs_losses(anomalous * scale, normal * scale, mask, per_image=per_image)
    plain = afs_losses_plain(anomalous * scale, normal * scale, mask, per_image=per_image)
    assert torch.allclose(fast, plain, atol=2e-6)


def test_normalising_each_image_alone():
    anomalous, normal, mask = pairs(1)
    one_by_one = [
        afs_losses_plain(a[None], i[None], m[None])
        for a, i, m in zip(anomalous, normal, mask, strict=True)
    ]
    found = afs_losses(anomalous, normal, mask, per_image=True)
    assert torch.allclose(found, torch.stack(one_by_one).mean(0), atol=1e-6)


def test_scale_of_a_channel_is_irrelevant():
    anomalous, normal, mask = pairs(2)
    factor = torch.linspace(20, 60, 12).view(1, 12, 1, 1)
    one = afs_losses(anomalous * 20, normal * 20, mask)
    other = afs_losses(anomalous * factor, normal * factor, mask)
    assert torch.allclose(one, other, atol=1e-5)


def test_dead_channel_costs_the_area_and_a_perfect_one_nothing():
    anomalous, normal, mask = pairs(3)
    anomalous[:, 4] = normal[:, 4]
    anomalous[:, 7] = normal[:, 7] + 50 * mask[:, 0]
    loss = afs_losses(anomalous, normal, mask)
    assert loss[4].item() == pytest.approx(mask.mean().item(), abs=1e-7)
    assert loss[7].item() == pytest.approx(0, abs=1e-6)


def test_planted_channels_are_chosen():
    """Three of forty channels see the defect among noise of the same energy."""
    g = torch.Generator().manual_seed(4)
    planted = torch.tensor([5, 17, 33])
    batches = []
    for _ in range(4):
        normal = torch.randn(4, 40, 8, 8, generator=g)
        mask = torch.zeros(4, 1, 32, 32)
        mask[:, :, 8:20, 12:24] = 1
        small = F.interpolate(mask, size=(8, 8), mode="nearest")
        anomalous = normal + torch.randn(normal.shape, generator=g)
        anomalous[:, planted] = normal[:, planted] + 3 * small
        batches.append(([anomalous], [normal], mask))
    (loss,) = channel_losses(batches)
    assert torch.equal(kept_channels(loss, 3), planted)


def test_kept_channels_ascend_and_nan_comes_last():
    loss = torch.tensor([0.3, float("nan"), 0.1, 0.2], dtype=torch.float64)
    assert kept_channels(loss, 3).tolist() == [0, 2, 3]


def test_nothing_selected_is_said():
    assert any(line.startswith("WARNING") for line in selection_notes(["a"], [8], [8]))
    lines = selection_notes(["a", "b"], [8, 16], [8, 4])
    assert not any(line.startswith("WARNING") for line in lines)
    assert "nothing is selected here" in lines[0]


@pytest.mark.parametrize("dims", [[64, 128], [64, 128, 300], [0, 1, 1]])
def test_impossible_dims_are_refused(dims):
    with pytest.raises(UserError, match=r"model\.afs\.dims"):
        kept_dims((64, 128, 256), dims)


def test_papers_dims_are_the_default():
    assert kept_dims((256, 512, 1024, 2048), None) == (256, 512, 512, 256)
    assert kept_dims((64, 128, 256), None) == (64, 128, 128)


def test_architectures_of_figure_s2():
    dims, strides = (256, 512, 512, 256), (4, 8, 16, 32)
    a, b, c = (blocks_of(arch, strides, dims) for arch in "ABC")
    assert [(x.channels, x.stride) for x in a] == [(256, 4), (512, 8), (512, 16), (256, 32)]
    assert [(x.channels, x.stride) for x in b] == [(1536, 4)]
    assert [(x.channels, x.stride) for x in c] == [(768, 4), (768, 16)]
    chosen = candidates(a, (256, 512, 1024, 2048))
    assert [x.layer for x in chosen] == [2, 3]


def test_random_projection_mixes_all_channels():
    features = BlockFeatures(blocks_of("A", (4,), (6,)), (20,), project=True)
    features.draw_projections(torch.Generator().manual_seed(0))
    maps = torch.randn(2, 20, 4, 4)
    (found,) = features([maps])
    expected = torch.einsum("mc,bchw->bmhw", features.weight_0_0, maps)
    assert torch.allclose(found, expected, atol=1e-5)
