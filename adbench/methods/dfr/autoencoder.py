"""Autoencoder of 1 x 1 convolutions over regional features."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


def hidden_widths(channels: int, latent: int) -> list[int]:
    """Return the seven widths C, (C + 2d) / 2, 2d, d, 2d, (C + 2d) / 2, C.

    >>> hidden_widths(384, 100)
    [384, 292, 200, 100, 200, 292, 384]
    """
    half = (channels + 2 * latent) // 2
    return [channels, half, 2 * latent, latent, 2 * latent, half, channels]


class PointwiseAutoencoder(nn.Module):
    """[B, C, h, w] -> [B, C, h, w]; every position is rebuilt from itself alone.

    Batch norm and ReLU follow each layer but the latent and the output, which are linear.
    """

    def __init__(self, channels: int, latent: int) -> None:
        super().__init__()
        widths = hidden_widths(channels, latent)
        self.layers = nn.Sequential(*_layers(widths, linear=(2, 5)))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


def _layers(widths: Sequence[int], linear: Sequence[int]) -> list[nn.Module]:
    found: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths)):
        found.append(nn.Conv2d(before, after, 1))
        if number not in linear:
            found += [nn.BatchNorm2d(after), nn.ReLU()]
    return found
