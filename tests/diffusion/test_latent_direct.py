"""Tokens, masks at latent size, the masked loss, and blended-latent inpainting."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from adbench.diffusion.latent.conditioning import Conditioning
from adbench.diffusion.latent.direct import DirectConditioning, conditioning_of
from adbench.diffusion.latent.inpainting import inpainted, latent_mask, masked_loss
from adbench.diffusion.latent.scratch import ScratchDiffusion
from adbench.diffusion.latent.tokens import MaskEncoder, TokenBank
from adbench.errors import UserError


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ScratchDiffusion(
        autoencoder={"kind": "pca", "channels": 4},
        network={"widths": [8, 16], "attention": [1], "head": 8},
        prediction="v",
    )


@pytest.fixture(scope="module")
def painter(model):
    torch.manual_seed(0)
    return DirectConditioning(model, 3, feature_tokens=8, position_tokens=4, width=16)


def square(side, at=0, size=64):
    mask = torch.zeros(1, 1, size, size, dtype=torch.bool)
    mask[..., at : at + side, at : at + side] = True
    return mask


@pytest.mark.parametrize("side", [1, 2, 4, 7, 20])
@pytest.mark.parametrize("at", [0, 3, 13])
def test_no_mask_vanishes_at_latent_size(side, at):
    mask = square(side, at)
    area = latent_mask(mask, 8, "area")
    assert float(area.sum()) == pytest.approx(side * side / 64)
    assert bool(((latent_mask(mask, 8, "any") > 0) == (area > 0)).all())
    if side <= 4:
        assert float(latent_mask(mask, 8, "bilinear05").sum()) == 0  # as in the code


def test_the_masked_loss_is_the_mean_inside_whatever_the_size():
    error = torch.full((1, 4, 8, 8), 0.7)
    for side in (1, 4, 30):
        weight = latent_mask(square(side), 8, "area")
        assert float(masked_loss(error, weight, "masked")) == pytest.approx(0.7, rel=1e-4)
    whole = torch.ones(1, 1, 8, 8)
    assert float(masked_loss(error, whole, "masked")) == pytest.approx(0.7)
    assert float(masked_loss(error, whole, "full")) == pytest.approx(0.7)


def test_a_mask_below_one_cell_has_a_gradient(painter):
    mask, clean = square(3, 2), torch.randn(1, 4, 8, 8)
    said = painter.output(
        clean, torch.tensor([500]), clean, mask, painter.context(torch.tensor([0]), mask)
    )
    error = (said - torch.randn_like(said)).square()
    loss = masked_loss(error, latent_mask(mask, 8, "area"), "masked").sum()
    weight = painter.network.conv_out.weight
    (gradient,) = torch.autograd.grad(loss, weight)
    assert float(gradient.abs().sum()) > 0


class Says(nn.Module):
    """A network that says the same mean and deviation everywhere."""

    def __init__(self, mean, spread):
        super().__init__()
        self.mean, self.spread = mean, spread

    def forward(self, inputs, time, encoder_hidden_states):
        whole = torch.ones(len(inputs), 4, *inputs.shape[-2:])
        sample = torch.cat([self.mean * whole, self.spread * whole], 1)
        return type("Answer", (), {"sample": sample})()


@pytest.mark.parametrize("level", [1, 300, 999])
def test_the_estimate_is_the_best_linear_one_of_what_the_network_says(model, level):
    """x ~ N(base + m s, (s e^r)^2): its mean given z = sqrt(a) x + sqrt(1 - a) n is known."""
    mean, spread = 0.7, -1.2
    painter = DirectConditioning(model, 3, feature_tokens=8, position_tokens=4, width=16)
    painter.network = Says(mean, spread)
    painter.deviation.fill_(0.5)
    generator = torch.Generator().manual_seed(0)
    clean, z = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    mask, time = square(20, 16), torch.tensor([level])
    base = painter._base(clean, mask)
    eps = painter.noise(z, time, clean, mask, painter.context(torch.tensor([0]), mask))
    a = float(model.schedule.alphas_cumprod[level])
    found = (z - (1 - a) ** 0.5 * eps) / a**0.5
    centre, own = base + mean * 0.5, 0.5 * math.exp(spread)
    gain = a**0.5 * own**2 / (a * own**2 + 1 - a)
    best = centre + gain * (z - a**0.5 * centre)
    torch.testing.assert_close(found, best, rtol=1e-3, atol=1e-3)


def test_only_the_clusters_of_a_batch_are_moved():
    bank = TokenBank(3, 8, 16)
    bank(torch.tensor([1, 1])).square().sum().backward()
    assert [block.grad is not None for block in bank.blocks] == [False, True, False, False, False]


def test_equal_masks_have_equal_tokens_and_a_shifted_one_others():
    torch.manual_seed(0)
    encoder = MaskEncoder(4, 16)
    one, other = encoder(torch.cat([square(20), square(20)])), encoder(square(20, 30))
    assert one.shape == (2, 4, 16)
    assert torch.allclose(one[0], one[1])
    assert float((one[0] - other[0]).detach().abs().max()) > 1e-3
    assert sum(p.numel() for p in encoder.parameters()) < 2_000_000


def test_the_context_is_twelve_tokens_in_any_order_of_samples(painter):
    mask = torch.cat([square(10), square(20, 9)])
    both = painter.context(torch.tensor([0, 2]), mask)
    swapped = painter.context(torch.tensor([2, 0]), mask.flip(0))
    assert both.shape == (2, 12, 16)
    assert torch.allclose(both, swapped.flip(0), atol=1e-6)


class Oracle(Conditioning):
    """Knows the picture that is hidden."""

    def __init__(self, model, hidden):
        super().__init__(model)
        self.hidden = hidden
        self.bank = TokenBank(1, 1, 4)
        self.unused = nn.Parameter(torch.zeros(1))

    def context(self, cluster, mask):
        return torch.zeros(len(cluster), 1, 4)

    def output(self, latent, time, clean, mask, context):
        raise AssertionError

    def noise(self, latent, time, clean, mask, context):
        signal = self.model.schedule.alphas_cumprod[time].float().view(-1, 1, 1, 1)
        return (latent - signal.sqrt() * self.hidden) / (1 - signal).sqrt()


def painted(painter, clean, mask, **keys):
    how = {"steps": 7, "eta": 0.0, "guidance": 1.0, **keys}
    generator = torch.Generator().manual_seed(0)
    cluster = torch.zeros(len(clean), dtype=torch.long)
    return inpainted(painter, clean, mask, cluster, generator=generator, **how)


@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_oracle_is_painted_inside_and_the_canvas_kept_outside(model, steps, eta):
    hidden, clean = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    mask = square(20, 9)
    found = painted(Oracle(model, hidden), clean, mask, steps=steps, eta=eta)
    inside = latent_mask(mask, 8, "any").bool().expand_as(found)
    assert torch.allclose(found[inside], hidden[inside], atol=1e-3)
    assert torch.equal(found[~inside], clean[~inside])


def test_without_a_mask_the_canvas_comes_back(painter):
    clean = torch.randn(2, 4, 8, 8)
    empty = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(painted(painter, clean, empty, guidance=2.0), clean)


def test_other_models_are_refused():
    with pytest.raises(UserError, match="diffusion=scratch or diffusion=sd15"):
        conditioning_of(nn.Identity(), 2, feature_tokens=8, position_tokens=4, width=16)
