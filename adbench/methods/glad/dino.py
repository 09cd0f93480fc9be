"""Position embeddings of DINO at sizes it was not trained at, and its fine-tuning loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SLACK = 0.1  # the authors of DINO add it so that the rounded grid comes out right


def resized_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return position embeddings [1, 1 + h w, C] for a grid (h, w), the class token's first.

    DINO resizes bicubically by a *factor* (n + 0.1) / m. Asking for a size, or timm's antialiased
    resampling, differs by up to half of the embedding's mean magnitude.

    Args:
        positions: [1, 1 + m m, C].
    """
    side = round((positions.shape[1] - 1) ** 0.5)
    if grid == (side, side):
        return positions
    maps = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factors = ((grid[0] + _SLACK) / side, (grid[1] + _SLACK) / side)
    resized = F.interpolate(maps, scale_factor=factors, mode="bicubic", align_corners=False)
    flat = resized.permute(0, 2, 3, 1).reshape(1, -1, positions.shape[-1])
    return torch.cat((positions[:, :1], flat), 1)


def fit_positions(network: Any, size: tuple[int, int]) -> None:
    """Bring a timm vision transformer's position embeddings to images of ``size``, in place.

    What it holds afterwards fits the grid, so that timm resamples nothing.
    """
    embed = network.patch_embed
    grid = (-(-size[0] // embed.patch_size[0]), -(-size[1] // embed.patch_size[1]))
    if tuple(embed.grid_size) == grid:
        return
    with torch.no_grad():
        network.pos_embed = nn.Parameter(resized_positions(network.pos_embed, grid))
    embed.grid_size, embed.num_patches = grid, grid[0] * grid[1]
    embed.img_size = size


def fit_backbone(backbone: Any, size: tuple[int, int]) -> None:
    """Bring the positions of a DINO FeatureExtractor to images of ``size``; others stay."""
    if backbone.config["name"].endswith(".dino"):
        fit_positions(backbone.network.model, size)


def tuning_loss(
    image: Sequence[Tensor],
    made: Sequence[Tensor],
    frozen_image: Sequence[Tensor],
    frozen_made: Sequence[Tensor],
    weight: float = 0.01,
) -> Tensor:
    """Return the loss that brings features of normal images and their reconstructions together.

    Sum over layers of d(image, made) + weight (d(image, its frozen features) + d(made, its frozen
    features)), d = 1 - cosine of all tokens of an image as one vector, averaged over the batch.

    Args:
        image, made: tokens [B, N, C] of each layer from the network that is tuned.
        frozen_image, frozen_made: the same from its untouched copy.
    """
    terms = [
        _apart(a, b) + weight * (_apart(a, a0) + _apart(b, b0))
        for a, b, a0, b0 in zip(image, made, frozen_image, frozen_made, strict=True)
    ]
    return torch.stack(terms).sum()


def _apart(first: Tensor, second: Tensor) -> Tensor:
    return (1 - F.cosine_similarity(first.flatten(1), second.flatten(1))).mean()
