"""Attention over an image's own features (Sec. 3.3): single head, no projections."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

_PEAK_STRIDE = 16


def positions(x: Tensor) -> Tensor:
    """Return [B, N, C] of a map [B, C, h, w], N = h w in row-major order."""
    return x.flatten(2).mT


def attention_weights(query: Tensor, features: Tensor) -> Tensor:
    """Return attention weights [B, M, N] of queries [B, M, C] over features [B, N, C].

    Each row sums to one. The features themselves ask in the self-attention W (Eq. 3), phi's
    output in the cross-attention (Eq. 4).
    """
    scale = 1 / math.sqrt(query.shape[-1])
    return ((query * scale) @ features.mT).softmax(-1)


def attended(query: Tensor, features: Tensor, kernel: str = "full") -> Tensor:
    """Return the mixture of true features that each position of ``query`` asks for.

    Args:
        query: [B, C, h, w]; the features themselves (self) or the autoencoder's (cross).
        features: [B, C, h, w]; keys and values.
        kernel: ``full`` keeps [B, N, N] weights; ``fused`` does not, at the price of gradients
            to keys and values that nobody reads.

    Returns:
        [B, C, h, w]; softmax runs over the positions of ``features``, scale 1 / sqrt(C).
    """
    x, z = positions(query), positions(features)
    if kernel == "fused":
        mixed = F.scaled_dot_product_attention(x.unsqueeze(1), z.unsqueeze(1), z.unsqueeze(1))
        mixed = mixed.squeeze(1)
    else:
        mixed = attention_weights(x, z) @ z
    return mixed.mT.reshape(query.shape)


def attention_peak(query: Tensor, features: Tensor) -> Tensor:
    """Return the mean largest weight over every 16th query position, a scalar in 0..1.

    Near 1 each position sees one feature only, and the attention loss equals the direct one.
    """
    sampled = positions(query.detach())[:, ::_PEAK_STRIDE]
    return attention_weights(sampled, positions(features)).amax(-1).mean()
