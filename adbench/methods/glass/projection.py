"""Truncated projection: the distance from a base is clamped into an interval (Eq. 2).

Around each normal feature (manifold, Sec. 3.2) or the centre (hypersphere, Appendix B.1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from adbench.methods import ranks
from adbench.methods.glass.losses import linear_quantile

EPSILON = 1e-10


class Radii(NamedTuple):
    """Intervals of the distances from the base.

    Attributes:
        gas: (lowest, highest) for GAS features.
        las: the same for anomalous LAS features; None leaves them as they are (manifold).
    """

    gas: tuple[Tensor, Tensor]
    las: tuple[Tensor, Tensor] | None


class Clamp(NamedTuple):
    """Scale of each row and its derivative by the row's norm, [N] each."""

    factor: Tensor
    slope: Tensor
    clamped: Tensor


def clamp_of(norm: Tensor, low: Tensor, high: Tensor) -> Clamp:
    """Return what brings rows of ``norm`` [N] into [low, high].

    A row h becomes ``factor * h``; ``slope`` is d factor / d norm, so that the Jacobian is
    ``factor I + slope h h^T / norm``; ``clamped`` [N] bool says which rows were outside.
    """
    clamped = (norm < low) | (norm > high)
    size = norm + EPSILON  # as released: keeps a row of length 0 from dividing by it
    target = norm.clamp(low, high)
    # factor = clamp(n) / (n + eps): inside the interval the numerator moves with n, outside not.
    slope = (torch.where(clamped, torch.zeros_like(norm), size) - target) / size**2
    return Clamp(target / size, slope, clamped)


def project(features: Tensor, base: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return features [N, C] with their distance from base [N, C] clamped, and which were."""
    offset = features - base
    norm = torch.linalg.vector_norm(offset, dim=1)
    clamped = (norm < low) | (norm > high)
    factor = norm.clamp(low, high) / (norm + EPSILON)
    return base + offset * factor[:, None], clamped


def hypersphere_radius(distances: Tensor, share: float = 0.75) -> Tensor:
    """Return r'_1: the ``share`` quantile of the normal rows' distances [N] from the centre."""
    return linear_quantile(ranks.gathered(distances), share)


def manifold_radii(low: float, high: float, like: Tensor) -> Radii:
    """Return the radii around each normal feature."""
    return Radii((like.new_tensor(low), like.new_tensor(high)), None)


def hypersphere_radii(radius: Tensor) -> Radii:
    """Return the radii around the centre: [r, 2r] for GAS, [2r, 4r] for LAS."""
    # Local anomalies start where global ones end: a seam shared by both, no gap, no overlap.
    return Radii((radius, 2 * radius), (2 * radius, 4 * radius))
