"""RRS: closed forms of upsampled maps, what is kept, gradients, statistics."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adbench.methods.realnet.blocks import upsampled
from adbench.methods.realnet.residuals import (
    ChannelStatistics,
    ResidualSelection,
    chosen_maps,
    chosen_maps_plain,
    enlarged,
    upsampled_moments,
    upsampled_peak,
)

CHANNELS = (5, 7, 6)


def residuals(seed=0, batch=3, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    sizes = (16, 8, 4)
    return [
        torch.randn(batch, c, s, s, generator=g, dtype=dtype).square()
        for c, s in zip(CHANNELS, sizes, strict=True)
    ]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(9, 20), st.integers(9, 20), st.integers(0, 99)
)
def test_closed_forms_of_upsampled_maps(h, w, tall, wide, seed):
    maps = torch.rand(2, 3, h, w, generator=torch.Generator().manual_seed(seed))
    full = upsampled(maps, (tall, wide))
    mean, square = upsampled_moments(maps, (tall, wide))
    assert torch.allclose(enlarged(maps.flatten(0, 1), (tall, wide)), full.flatten(0, 1), atol=1e-5)
    assert torch.allclose(mean.float(), full.mean((2, 3)), atol=1e-5)
    assert torch.allclose(square.float(), full.square().mean((2, 3)), atol=1e-5)
    assert torch.allclose(upsampled_peak(maps, (tall, wide)), full.amax((2, 3)), atol=1e-5)


@pytest.mark.parametrize("mode", [(4, 4), (6, 0), (0, 6)])
@pytest.mark.parametrize("training", [True, False])
def test_fast_equals_plain(mode, training):
    fast, plain = (ResidualSelection(18, *mode, plain=p).train(training) for p in (False, True))
    ours, theirs = residuals(), residuals()
    for block in (*ours, *theirs):
        block.requires_grad_()
    a, b = fast(ours), plain(theirs)
    assert torch.allclose(a, b, atol=1e-5)
    weight = torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    for x, y in zip(ours, theirs, strict=True):
        assert torch.allclose(x.grad, y.grad, atol=1e-4)
    assert torch.allclose(fast.running_mean, plain.running_mean, atol=1e-6)
    assert torch.allclose(fast.running_var, plain.running_var, atol=1e-5)


def test_gradients_of_the_chosen_maps():
    g = torch.Generator().manual_seed(0)
    blocks = [
        torch.randn(2, c, s, s, generator=g, dtype=torch.float64).requires_grad_()
        for c, s in ((3, 4), (4, 2))
    ]
    index = torch.tensor([[0, 4, 4, 6], [2, 3, 5, 0]])
    assert torch.autograd.gradcheck(lambda *b: chosen_maps(b, index, (4, 4)), blocks)


def test_repeated_channels_in_any_order():
    blocks = residuals()
    index = torch.randint(0, 18, (3, 9), generator=torch.Generator().manual_seed(3))
    found = chosen_maps(blocks, index, (16, 16))
    assert torch.allclose(found, chosen_maps_plain(blocks, index, (16, 16)), atol=1e-5)


def test_choice_by_brute_force():
    selection = ResidualSelection(18, 4, 3).eval()
    selection.running_mean.uniform_(0, 1)
    selection.running_var.uniform_(0.5, 2)
    blocks = residuals()
    full = torch.cat([upsampled(b, (16, 16)) for b in blocks], 1)
    scaled = (full - selection.running_mean[:, None, None]) / (
        selection.running_var[:, None, None] + 1e-5
    ).sqrt()
    for row, chosen in enumerate(selection.chosen(blocks, (16, 16)).tolist()):
        peak = sorted(range(18), key=lambda c: -scaled[row, c].max().item())[:4]
        mean = sorted(range(18), key=lambda c: -scaled[row, c].mean().item())[:3]
        assert chosen == peak + mean


def test_planted_residuals_at_two_scales():
    """A spot in a fine channel is found by the maximum, a broad one in a coarse by the mean."""
    blocks = [0.1 * b for b in residuals(5, batch=1)]
    blocks[0][0, 2, 7, 9] = 40.0
    blocks[2][0, 3] += 4.0
    selection = ResidualSelection(18, 1, 1).eval()
    assert selection.chosen(blocks, (16, 16)).tolist() == [[2, 5 + 7 + 3]]


def test_a_channel_that_is_always_large_is_not_chosen():
    selection = ResidualSelection(18, 3, 3).eval()
    blocks = residuals()
    first = selection.chosen(blocks, (16, 16))[0, 0].item()
    selection.running_mean[first] = 1e3
    assert first not in selection.chosen(blocks, (16, 16))[0]


def test_images_are_independent_in_eval():
    selection = ResidualSelection(18, 4, 4).eval()
    blocks = residuals(batch=4)
    whole = selection(blocks)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(selection([b[order] for b in blocks]), whole[order])
    assert torch.allclose(selection([b[1:2] for b in blocks]), whole[1:2], atol=1e-6)


def test_training_compares_with_the_batch_unless_told_otherwise():
    blocks = residuals()
    batch = ResidualSelection(18, 4, 4).train()
    running = ResidualSelection(18, 4, 4, stats="running", momentum=0.0).train()
    assert torch.equal(running(blocks), ResidualSelection(18, 4, 4).eval()(blocks))
    assert not torch.equal(batch(blocks), running(blocks))


def test_all_residuals_without_selection():
    full = ResidualSelection(18, 0, 0)(residuals())
    assert full.shape == (3, 18, 16, 16)


def test_statistics_depend_on_neither_order_nor_batches():
    blocks = residuals(batch=7)
    found = []
    for parts in ([[0, 1, 2], [3, 4, 5], [6]], [[6, 5, 4, 3], [2, 1, 0]]):
        statistics = ChannelStatistics()
        for part in parts:
            statistics.add([b[part] for b in blocks])
        selection = ResidualSelection(18, 4, 4)
        statistics.set(selection)
        found.append((selection.running_mean, selection.running_var))
    full = torch.cat([upsampled(b, (16, 16)) for b in blocks], 1)
    for mean, var in found:
        assert torch.allclose(mean, full.mean((0, 2, 3)), atol=1e-6)
        assert torch.allclose(var, full.var((0, 2, 3), unbiased=False), atol=1e-5)
