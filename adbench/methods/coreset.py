"""Greedy coreset: which of many features to keep so that every other one is near a kept one."""

from __future__ import annotations

import torch
from torch import Tensor

_POOL = 512  # candidates looked at between two updates of all distances
_CHUNK = 1 << 12  # rows of a product that stays in the cache


def projected(rows: Tensor, columns: int | None, generator: torch.Generator) -> Tensor:
    """Return rows [N, C] under a random projection to ``columns``, float32; None: as they are.

    Gaussian entries of variance 1 / columns keep squared distances on average (Johnson and
    Lindenstrauss).
    """
    if columns is None or columns >= rows.shape[1]:
        return rows.float()
    matrix = torch.randn(rows.shape[1], columns, generator=generator) / columns**0.5
    out = torch.empty(len(rows), columns, device=rows.device)
    matrix = matrix.to(rows.device)
    for start in range(0, len(rows), _CHUNK):
        torch.mm(rows[start : start + _CHUNK].float(), matrix, out=out[start : start + _CHUNK])
    return out


def plain_coreset(points: Tensor, count: int, first: int) -> Tensor:
    """Return the indices [count] that the greedy choice makes, one after the other.

    Each time the point farthest from all chosen ones is taken: the published algorithm, and what
    ``greedy_coreset`` is tested against.
    """
    chosen = [first]
    nearest = (points - points[first]).square().sum(1)
    for _ in range(count - 1):
        nearest[chosen[-1]] = -1
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)


@torch.no_grad()
def greedy_coreset(points: Tensor, count: int, first: int) -> Tensor:
    """Return the indices [count] of the greedy choice, many to one pass over all points.

    Distances only fall while points are chosen. So among the ``_POOL`` farthest points the choice
    can go on by itself as long as its farthest is at least as far as every point outside was when
    the pool was made; then all distances are brought up to date by one matrix product. The choice
    is that of ``plain_coreset`` up to rounding, without a synchronisation for each point.

    Args:
        points: [N, d] float32.
        count: how many are chosen, 1 to N.
        first: index of the first one.
    """
    half = points.square().sum(1) / 2
    start = torch.tensor([first], device=points.device)
    nearest = torch.full_like(half, torch.inf)
    _lower(nearest, points, half, start)
    found, done = [start], 1
    while done < count:
        size = min(_POOL, len(points))
        values, pool = nearest.topk(min(size + 1, len(points)))
        bound = values[size] if len(values) > size else values.new_tensor(-torch.inf)
        order, at = _pool_choice(points[pool[:size]], values[:size], min(size, count - done))
        kept = max(int((at >= bound).sum()), 1)  # falls from pick to pick: a prefix
        chosen = pool[order[:kept]]
        _lower(nearest, points, half, chosen)
        found.append(chosen)
        done += kept
    return torch.cat(found)


def _pool_choice(points: Tensor, nearest: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the greedy order [count] within a pool and each pick's distance when picked."""
    distance = torch.cdist(points, points).square_()
    distance.fill_diagonal_(-1)  # what is chosen is never chosen again
    order = torch.empty(count, dtype=torch.long, device=points.device)
    at = torch.empty(count, device=points.device)
    nearest = nearest.clone()
    for step in range(count):
        torch.max(nearest, 0, out=(at[step], order[step]))
        torch.minimum(nearest, distance[order[step]], out=nearest)
    return order, at


def _lower(nearest: Tensor, points: Tensor, half: Tensor, chosen: Tensor) -> None:
    """Lower squared distances ``nearest`` [N] to those from ``chosen``, in place."""
    others, own = points[chosen].mT.contiguous(), half[chosen]
    for start in range(0, len(points), _CHUNK):
        part = slice(start, start + _CHUNK)
        near = torch.addmm(own[None], points[part], others, alpha=-1).amin(1)
        near = near.add_(half[part]).mul_(2).clamp_(min=0)
        torch.minimum(nearest[part], near, out=nearest[part])
    nearest[chosen] = -1
