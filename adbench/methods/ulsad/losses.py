"""Distances between feature maps and the three losses made of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.methods.ulsad.attention import attended
from adbench.methods.ulsad.settings import LossKeys


def distance_map(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Return l_v + weight * l_d per position, [B, 1, h, w], of maps [B, C, h, w].

    l_v is the mean squared difference over channels, l_d one minus the cosine (Eq. 2).
    """
    found = (a - b).square().mean(1, keepdim=True)
    if weight:
        found = found + weight * (1 - F.cosine_similarity(a, b, dim=1, eps=1e-8).unsqueeze(1))
    return found


def distance(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Return D: the mean of ``distance_map`` over images and positions."""
    return distance_map(a, b, weight).mean()


def local_loss(local: Tensor, features: Tensor, keys: LossKeys) -> Tensor:
    """Return the local loss L_pl (Eq. 1): reconstructed against true features; trains psi only."""
    return distance(local, features, keys.lambda_l)


def attention_loss(
    encoded: Tensor, features: Tensor, target: Tensor, keys: LossKeys, kernel: str = "full"
) -> Tensor:
    """Return the global loss L_pg (Eq. 5): what phi's output attends to against A.

    Args:
        encoded: phi's output, the query.
        features: true features, keys and values.
        target: A, attention of the features over themselves; constant.
    """
    return distance(attended(encoded, features, kernel), target, keys.attention_weight)


def direct_loss(encoded: Tensor, features: Tensor, keys: LossKeys) -> Tensor:
    """Return L_pg^d (Table 3): phi's output against the features, without attention."""
    return distance(encoded, features, keys.attention_weight)


def local_global_loss(second: Tensor, encoded: Tensor, keys: LossKeys) -> Tensor:
    """Return the local-global loss L_lg (Eq. 6): psi's second half against phi's output.

    It trains both networks, unless detached.
    """
    return distance(second, encoded.detach() if keys.detach else encoded, keys.lambda_g)


def total(parts: dict[str, Tensor]) -> Tensor:
    """Return the sum of the terms, weight 1 each (Algorithm 1, line 19)."""
    return torch.stack(list(parts.values())).sum()
