"""Feature residuals in the metric of what reconstruction does to normal images (ours).

A reconstruction never returns an image as it was: grain and fine texture differ, always in the same
directions of the feature space. Cosine distances count these as much as a repaired defect.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

_SHRINKAGE = 0.01  # of the mean variance, added to every direction


class WhitenedResiduals(nn.Module):
    """Mahalanobis distance of f(image) - f(reconstruction) at each place, layer by layer.

    Each layer's distances are brought to mean 0 and deviation 1 over normal images, so that no
    layer outweighs the others.

    Args:
        channels: of the layers.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.count = len(channels)
        for layer, width in enumerate(channels):
            self.register_buffer(f"mean{layer}", torch.zeros(width))
            self.register_buffer(f"root{layer}", torch.eye(width))
        self.register_buffer("centre", torch.zeros(len(channels)))
        self.register_buffer("spread", torch.ones(len(channels)))

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]]) -> None:
        """Take mean and covariance of each layer's residuals from (image, reconstruction) maps.

        Args:
            pairs: of normal images, each two lists of maps [B, C, h, w].
        """
        kept: list[list[Tensor]] = [[] for _ in range(self.count)]
        for first, second in pairs:
            for layer, (a, b) in enumerate(zip(first, second, strict=True)):
                kept[layer].append(a - b)
        for layer, parts in enumerate(kept):
            residual = torch.cat(parts)
            rows = residual.movedim(1, -1).flatten(0, 2).double()
            mean = rows.mean(0)
            covariance = (rows - mean).mT @ (rows - mean) / len(rows)
            ridge = _SHRINKAGE * covariance.diagonal().mean().clamp_min(1e-12)
            covariance.diagonal().add_(ridge)
            root = torch.linalg.inv(torch.linalg.cholesky(covariance))
            self.get_buffer(f"mean{layer}").copy_(mean.float())
            self.get_buffer(f"root{layer}").copy_(root.float())
            distance = self._distance(residual, layer)
            self.get_buffer("centre")[layer] = distance.mean()
            self.get_buffer("spread")[layer] = distance.std().clamp_min(1e-12)

    def _distance(self, residual: Tensor, layer: int) -> Tensor:
        """Return [B, 1, h, w]."""
        centred = residual.movedim(1, -1) - self.get_buffer(f"mean{layer}")
        white = centred @ self.get_buffer(f"root{layer}").mT
        return white.square().sum(-1).sqrt().unsqueeze(1)

    def forward(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
        """Return the layers' maps [B, 1, h, w], those of one size summed."""
        by_size: dict[tuple[int, ...], Tensor] = {}
        for layer, (a, b) in enumerate(zip(first, second, strict=True)):
            found = self._distance(a - b, layer)
            found = (found - self.get_buffer("centre")[layer]) / self.get_buffer("spread")[layer]
            size = tuple(found.shape[-2:])
            by_size[size] = by_size[size] + found if size in by_size else found
        return list(by_size.values())
