"""One feature map per image: pooled over channels, brought to one size, standardised (Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.errors import UserError

SMALLEST_SIGMA = 1e-6


def pool_channels(x: Tensor, channels: int) -> Tensor:
    """Return [B, channels, h, w]: adaptive average of x [B, C, h, w] over the channel axis.

    Output channel i averages input channels floor(i C / c) .. ceil((i + 1) C / c) - 1.

    >>> pool_channels(torch.arange(8.0).view(1, 8, 1, 1), 2).flatten().tolist()
    [1.5, 5.5]
    """
    batch, total, height, width = x.shape
    if total == channels:
        return x
    if total % channels == 0:
        return x.view(batch, channels, total // channels, height, width).mean(2)
    flat = x.permute(0, 2, 3, 1).reshape(batch, height * width, total)
    pooled = F.adaptive_avg_pool1d(flat, channels)
    return pooled.view(batch, height, width, channels).permute(0, 3, 1, 2).contiguous()


class FeaturePooling(nn.Module):
    """Maps of several layers -> one standardised map U [B, c, h, w].

    ``native`` is what is worth keeping of an image: pooled maps at their own sizes, which
    ``joined`` brings together. Pooling and bilinear resizing commute where no pooled channel
    straddles two layers; elsewhere ``native`` is the joined and pooled map itself.

    Args:
        widths: channels of each layer, fine to coarse.
        channels: c; no more than there are.

    Raises:
        UserError: fewer channels come in than go out.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        total = sum(widths)
        if total < channels:
            raise UserError(
                f"model.channels={channels}, but the backbone's layers have {total}; "
                f"set model.channels={total} or read more layers"
            )
        self.channels = channels
        ratio = total // channels
        self.aligned = total % channels == 0 and all(width % ratio == 0 for width in widths)
        self.parts = [width // ratio for width in widths]
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))

    def native(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the pooled maps of ``maps`` [B, C_k, h_k, w_k], not yet joined."""
        if self.aligned:
            return [pool_channels(m, part) for m, part in zip(maps, self.parts, strict=True)]
        return [pool_channels(_concatenated(maps), self.channels)]

    def joined(self, native: Sequence[Tensor]) -> Tensor:
        """Return U_0 [B, c, h, w] at the size of the first map."""
        return _concatenated(native)

    def forward(self, native: Sequence[Tensor]) -> Tensor:
        """Return U [B, c, h, w], standardised per channel."""
        standardised: Tensor = (self.joined(native) - self.mean) / self.std
        return standardised

    def set_statistics(self, pooled: Iterable[Tensor]) -> None:
        """Take mean and population deviation per channel of maps U_0, summed in float64."""
        total = square = torch.zeros(self.channels, dtype=torch.float64, device=self.mean.device)
        count = 0
        for x in pooled:
            exact = x.to(torch.float64)
            total = total + exact.sum((0, 2, 3))
            square = square + exact.square().sum((0, 2, 3))
            count += x.shape[0] * x.shape[2] * x.shape[3]
        mean = total / count
        std = (square / count - mean.square()).clamp(min=0).sqrt().clamp(min=SMALLEST_SIGMA)
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(std.view_as(self.std))


def _concatenated(maps: Sequence[Tensor]) -> Tensor:
    size = maps[0].shape[-2:]
    resized = [
        m if m.shape[-2:] == size else F.interpolate(m, size=size, mode="bilinear") for m in maps
    ]
    return torch.cat(resized, 1) if len(resized) > 1 else resized[0]
