"""Tokens of a defect: a bank of feature tokens, and position tokens read off its mask."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.diffusion.latent.settings import GROUPS

_SIDE = 64  # pixels of the masks that the encoder sees
_FUSED, _POOLED, _FACTS = 64, 4, 4


class MaskEncoder(nn.Module):
    """A mask's position tokens e_p [B, n, d], by a small pyramid (E of the paper, under 1 M).

    Args:
        tokens, width: n and d.
        base: channels of the first of four levels.
    """

    def __init__(self, tokens: int, width: int, base: int = 16) -> None:
        super().__init__()
        widths = [1, base, 2 * base, 4 * base, 8 * base]
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GroupNorm(GROUPS, outputs), nn.SiLU()
            )
            for inputs, outputs in itertools.pairwise(widths)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(w, _FUSED, 1) for w in widths[2:])
        self.head = nn.Linear(_FUSED * _POOLED**2 + _FACTS, tokens * width)
        self.shape = (tokens, width)

    def forward(self, mask: Tensor) -> Tensor:
        """Return e_p of masks [B, 1, H, W], 0..1."""
        mask = F.adaptive_avg_pool2d(mask.float(), (_SIDE, _SIDE))
        x, maps = mask * 2 - 1, []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        fused = self.lateral[-1](maps[-1])
        for lateral, own in zip(reversed(self.lateral[:-1]), reversed(maps[1:-1]), strict=True):
            grown = F.interpolate(fused, own.shape[-2:], mode="bilinear", align_corners=False)
            fused = lateral(own) + grown
        pooled = F.adaptive_avg_pool2d(fused, _POOLED).flatten(1)
        found: Tensor = self.head(torch.cat([pooled, mask_facts(mask)], 1))
        return found.view(len(mask), *self.shape)


def mask_facts(mask: Tensor) -> Tensor:
    """Return centre x, y, root of the area and aspect [B, 4] of masks [B, 1, H, W]."""
    height, width = mask.shape[-2:]
    y = torch.linspace(-1, 1, height, device=mask.device).view(1, 1, -1, 1)
    x = torch.linspace(-1, 1, width, device=mask.device).view(1, 1, 1, -1)
    area = mask.sum((1, 2, 3)).clamp_min(1e-6)
    cx, cy = ((mask * v).sum((1, 2, 3)) / area for v in (x, y))
    sx = ((mask * (x - cx.view(-1, 1, 1, 1)) ** 2).sum((1, 2, 3)) / area).clamp_min(1e-6).sqrt()
    sy = ((mask * (y - cy.view(-1, 1, 1, 1)) ** 2).sum((1, 2, 3)) / area).clamp_min(1e-6).sqrt()
    return torch.stack([cx, cy, (area / (height * width)).sqrt(), (sx / sy).log()], 1)


class TokenBank(nn.Module):
    """Feature tokens e_f of every cluster, each a parameter of its own.

    One block a cluster: a cluster that no sample of a batch shows has no gradient, so that the
    optimiser's momentum does not move it. Two more stand for "normal" and for "unconditioned".

    Args:
        clusters: K; numbers K and K + 1 are normal and unconditioned.
        tokens, width: of a block.
        start: [width]; what every token begins as; None draws them.
    """

    def __init__(self, clusters: int, tokens: int, width: int, start: Tensor | None = None) -> None:
        super().__init__()
        self.clusters = clusters
        drawn = [
            0.02 * torch.randn(tokens, width) + (0 if start is None else start.detach())
            for _ in range(clusters + 2)
        ]
        self.blocks = nn.ParameterList(nn.Parameter(block.clone()) for block in drawn)

    @property
    def normal(self) -> int:
        return self.clusters

    @property
    def null(self) -> int:
        return self.clusters + 1

    def forward(self, cluster: Tensor) -> Tensor:
        """Return e_f [B, n, d] of clusters [B]."""
        return torch.stack([self.blocks[number] for number in cluster.tolist()])
