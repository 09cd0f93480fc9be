"""Blended-latent inpainting: masks at latent size, the masked loss (Eq. 3), the sampler."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.diffusion.latent.conditioning import Conditioning


def latent_mask(mask: Tensor, factor: int, how: str) -> Tensor:
    """Return pixel masks [B, 1, H, W] at latent size, as weights of the loss or of the blend.

    ``area``: share of each cell that is covered: never empty, sums to area / factor^2. ``any``:
    1 where a pixel is. ``bilinear05``: cut at a half after bilinear shrinking (AnomalyDiffusion's
    code), under which small masks vanish.
    """
    mask = mask.float()
    if how == "area":
        return F.avg_pool2d(mask, factor)
    if how == "any":
        return F.max_pool2d(mask, factor)
    size = [side // factor for side in mask.shape[-2:]]
    small = F.interpolate(mask, size, mode="bilinear", align_corners=False, antialias=True)
    return (small >= 0.5).float()


def masked_loss(error: Tensor, weight: Tensor, norm: str) -> Tensor:
    """Return the loss of each sample [B] (Eq. 3) from squared errors [B, C, h, w].

    ``masked``: mean over the mask, so that a small defect counts as a large one. ``full``: over
    all cells, as printed.
    """
    total = (error * weight).sum((1, 2, 3))
    if norm == "full":
        return total / error[0].numel()
    return total / (error.shape[1] * weight.sum((1, 2, 3))).clamp_min(1e-6)


@torch.no_grad()
def inpainted(
    painter: Conditioning,
    clean: Tensor,
    mask: Tensor,
    cluster: Tensor,
    *,
    steps: int,
    eta: float,
    guidance: float,
    generator: torch.Generator,
    clamp: float | None = 6.0,
    start: Tensor | None = None,
    strength: float = 1.0,
) -> Tensor:
    """Return latents [B, C, h, w] with the clusters' defects at the masks (blended latents).

    At each step what lies outside the mask is the canvas at that level; after the last one it is
    the canvas itself, which the code of AnomalyDiffusion leaves out.

    Args:
        clean: latents of the canvas.
        mask: [B, 1, H, W] at the pixels.
        cluster: [B].
        eta: 0 for a deterministic walk.
        clamp: of the clean estimate, in deviations; None leaves it.
        start: latents whose noisy form the walk begins from; None begins from noise alone.
        strength: share of the levels that the walk descends from there.
    """
    model = painter.model
    signal = model.schedule.alphas_cumprod
    blend = latent_mask(mask, model.factor, "any")
    contexts = [painter.context(cluster, mask)]
    if guidance != 1:
        null = torch.full_like(cluster, painter.bank.null)
        contexts.append(painter.context(null, mask))
    context = torch.cat(contexts)
    top = len(signal) - 1 if start is None else max(1, round(strength * (len(signal) - 1)))
    levels = torch.linspace(top, 0, steps).round().long().tolist()
    z = _normal(clean, generator)
    if start is not None:
        z = _at(start, float(signal[top]), z)
    for number, level in enumerate(levels):
        here = float(signal[level])
        z = blend * z + (1 - blend) * _at(clean, here, _normal(clean, generator))
        time = torch.full((len(z),), level, device=z.device)
        eps = _guided(painter, z, time, clean, mask, context, guidance)
        x0 = (z - (1 - here) ** 0.5 * eps) / here**0.5
        if clamp is not None:
            x0 = x0.clamp(-clamp, clamp)
            eps = (z - here**0.5 * x0) / (1 - here) ** 0.5
        if number + 1 == len(levels):
            z = x0
            break
        after = float(signal[levels[number + 1]])
        sigma = eta * ((1 - after) / (1 - here) * (1 - here / after)) ** 0.5
        z = after**0.5 * x0 + max(1 - after - sigma**2, 0.0) ** 0.5 * eps
        if sigma:
            z = z + sigma * _normal(clean, generator)
    return blend * z + (1 - blend) * clean


def _guided(
    painter: Conditioning,
    z: Tensor,
    time: Tensor,
    clean: Tensor,
    mask: Tensor,
    context: Tensor,
    guidance: float,
) -> Tensor:
    """Return the noise; with twice as many contexts as latents the second half is unconditioned."""
    if len(context) == len(z):
        return painter.noise(z, time, clean, mask, context)
    two = [torch.cat([v, v]) for v in (z, time, clean, mask)]
    told, plain = painter.noise(two[0], two[1], two[2], two[3], context).chunk(2)
    return plain + guidance * (told - plain)


def _at(clean: Tensor, signal: float, noise: Tensor) -> Tensor:
    return signal**0.5 * clean + (1 - signal) ** 0.5 * noise


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)
