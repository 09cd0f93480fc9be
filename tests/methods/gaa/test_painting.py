"""What is painted, where it begins, and that small defects are painted at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from adbench.diffusion.latent.direct import DirectConditioning, filled
from adbench.diffusion.latent.inpainting import latent_mask
from adbench.diffusion.latent.scratch import ScratchDiffusion
from adbench.methods.gaa.masks import Part, Plan
from adbench.methods.gaa.painting import PaintMaker
from adbench.methods.gaa.paste import Paster
from adbench.methods.gaa.settings import GaaKeys, GenerateKeys
from adbench.methods.gaa.windows import brought_mask, window_around
from tests.methods.gaa.test_masks import SIZE, disc, real_of

KEYS = GenerateKeys(window=32, net=64, steps=3, guidance=1.0)


@pytest.fixture(scope="module")
def painter():
    torch.manual_seed(0)
    model = ScratchDiffusion(
        autoencoder={"kind": "pca", "channels": 8},
        network={"widths": [8, 16], "attention": [1], "head": 8},
    )
    model.autoencoder.fit(torch.rand(400, 1) - 0.5 + 0.05 * torch.randn(400, 192))
    made = DirectConditioning(model, 1, feature_tokens=8, position_tokens=4, width=16)
    latents = torch.randn(4, 8, 8, 8) * torch.tensor([3.0, *[0.1] * 7]).view(1, 8, 1, 1)
    made.measure(latents, torch.ones(4, 1, 64, 64))
    return made.eval().requires_grad_(False)


def planned(masks):
    plans = [Plan(i, "hole", 0, (Part(0, 0, 1, 0, False, 0, 0, ""),)) for i in range(len(masks))]
    canvases = [np.full((*SIZE, 3), 120, np.uint8)] * len(masks)
    return plans, canvases, [mask.astype(np.uint8) for mask in masks]


def test_masks_below_a_latent_cell_weigh_in_the_loss_and_change_the_picture(painter):
    rng, masks = np.random.default_rng(0), []
    for _ in range(40):
        mask = np.zeros(SIZE, bool)  # a latent cell is 4 x 4 of the picture's pixels
        y, x = rng.integers(8, 50, 2)
        high, wide = rng.integers(1, 4, 2)
        mask[y : y + high, x : x + wide] = True
        masks.append(mask)
    windows = [brought_mask(m[window_around(m, KEYS).slices], KEYS.net) for m in masks]
    weights = latent_mask(torch.from_numpy(np.stack(windows))[:, None], 8, "area").sum((1, 2, 3))
    assert bool((weights > 0).all())
    plans, canvases, labels = planned(masks)
    made = PaintMaker(painter, real_of(disc(20, 20, 5)), GaaKeys(generate=KEYS), 0)(
        plans, canvases, labels
    )
    changed = [
        np.abs(m.astype(int) - c)[k].max() > 0
        for m, c, k in zip(made, canvases, masks, strict=True)
    ]
    assert np.mean(changed) >= 0.95
    away = [disc(y, x, 8) for y, x in (np.argwhere(m)[0] for m in masks)]
    assert all((m[~a] == 120).all() for m, a in zip(made, away, strict=True))


def test_little_strength_stays_with_the_pasted_component(painter):
    real, mask = real_of(disc(20, 20, 8)), disc(30, 30, 8)
    real.images = [np.where(disc(20, 20, 8)[..., None], 220, 120).astype(np.uint8).repeat(3, -1)]
    plans, canvases, labels = planned([mask])
    pasted = Paster(real, KEYS)(plans[0], canvases[0], labels[0]).astype(int)

    def away(strength):
        keys = GaaKeys(generate=replace(KEYS, strength=strength))
        (made,) = PaintMaker(painter, real, keys, 0)(plans, canvases, labels)
        return np.abs(made.astype(int) - pasted)[disc(30, 30, 4)].mean()  # clear of the outline

    assert away(0.02) < 0.5 * away(1.0)


@pytest.mark.parametrize("level", [0, 300, 700, 999])
def test_the_answer_to_its_target_is_the_noise(painter, level):
    """Preconditioning is undone: who says the target knows the noise, and it has deviation 1."""
    clean = torch.randn(64, 8, 8, 8) * painter.deviation
    noise, time, mask = torch.randn_like(clean), torch.full((64,), level), torch.ones(64, 1, 64, 64)
    mask[:, :, :8] = 0  # a row of cells is known
    clean[:, :, 0] = 0
    target = painter.target(clean, noise, time, mask)
    assert target[:, :, 1:].std((0, 2, 3)) == pytest.approx(np.ones(8), abs=0.1)
    a = float(painter.model.schedule.alphas_cumprod[level])
    latent = a**0.5 * clean + (1 - a) ** 0.5 * noise
    known = painter.output
    painter.output = lambda *inputs: target
    found = painter.noise(latent, time, clean, mask, None)
    painter.output = known
    assert torch.allclose(found, noise, atol=5e-3)


def test_a_hole_is_filled_from_around_it_and_what_is_known_stays():
    ramp = torch.linspace(0, 1, 16).view(1, 1, 1, 16).expand(1, 2, 16, 16).contiguous()
    known = torch.ones(1, 1, 16, 16)
    known[..., 5:11, 5:11] = 0
    hidden = torch.where(known > 0, ramp, torch.full_like(ramp, 99.0))
    found = filled(hidden, known)
    assert torch.equal(found[(known > 0).expand_as(found)], ramp[(known > 0).expand_as(ramp)])
    assert float((found - ramp).abs().max()) < 0.25
    assert torch.allclose(filled(torch.full_like(ramp, 3.0), known), torch.tensor(3.0))
    assert torch.equal(filled(hidden, known * 0), hidden * 0)
