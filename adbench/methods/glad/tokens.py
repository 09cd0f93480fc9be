"""Cosine distance to the nearest token of the other image, in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class TokenDistances(NamedTuple):
    """1 - largest cosine: of every first token [B, N], of every second token [B, M]."""

    forward: Tensor
    backward: Tensor


def tokens_of(maps: Tensor) -> Tensor:
    """Return tokens [B, h w, C] of feature maps [B, C, h, w]."""
    return maps.flatten(2).mT


def nearest_distances(first: Tensor, second: Tensor, chunk: int = 1024) -> TokenDistances:
    """Return the distance of every token to the nearest one anywhere in the other image.

    One chunk of cosines serves both directions; at most B x N x ``chunk`` are held at once.

    Args:
        first: [B, N, C].
        second: [B, M, C].
        chunk: second tokens at a time.
    """
    first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    best = first.new_full(first.shape[:2], -torch.inf)
    back = []
    for some in second.split(chunk, dim=1):
        cosines = first @ some.mT
        best = torch.maximum(best, cosines.amax(2))
        back.append(cosines.amax(1))
    return TokenDistances(1 - best, 1 - torch.cat(back, 1))


def distance_map(
    first: Tensor, second: Tensor, direction: str = "forward", chunk: int = 1024
) -> Tensor:
    """Return [B, 1, h, w] of feature maps [B, C, h, w]: forward, or with the way back.

    ``sum`` adds both directions (code, one category), ``mean`` averages them (several).
    """
    found = nearest_distances(tokens_of(first), tokens_of(second), chunk)
    values = found.forward
    if direction == "sum":
        values = found.forward + found.backward
    elif direction == "mean":
        values = (found.forward + found.backward) / 2
    return values.unflatten(1, first.shape[-2:]).unsqueeze(1)


def summed_maps(
    first: Sequence[Tensor], second: Sequence[Tensor], direction: str, chunk: int
) -> list[Tensor]:
    """Return the distance maps of all layers, those of one size summed."""
    by_size: dict[tuple[int, ...], Tensor] = {}
    for a, b in zip(first, second, strict=True):
        found = distance_map(a, b, direction, chunk)
        size = tuple(found.shape[-2:])
        by_size[size] = by_size[size] + found if size in by_size else found
    return list(by_size.values())
