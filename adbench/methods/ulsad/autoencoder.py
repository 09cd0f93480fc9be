"""Global autoencoder phi from images to features (Table 5, as corrected)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.methods.ulsad.settings import AutoencoderKeys

SMALLEST, MULTIPLE = 256, 32
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def decoder_sizes(side: int) -> list[int]:
    """Return the side before each of the six decoder convolutions, for an image ``side``.

    >>> decoder_sizes(256)
    [3, 8, 15, 31, 63, 32]
    """
    eighth = side // 8
    return [side // 64 - 1, side // 32, side // 16 - 1, eighth - 1, side // 4 - 1, eighth]


class GlobalAutoencoder(nn.Module):
    """phi: images [B, 3, H, W] in 0..1 -> [B, channels, H/8, W/8].

    H and W are multiples of 32, at least 256. At 256 px the bottleneck is one position, whose
    batch statistics rest on B values: train with B >= 4.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, keys: AutoencoderKeys) -> None:
        super().__init__()
        narrow, wide = keys.narrow, keys.wide
        widths = [3, narrow, narrow, wide, wide, wide, wide]
        encoder = [nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths[:6])]
        self.encoder = nn.ModuleList([*encoder, nn.Conv2d(wide, wide, 8)])
        decoder = [nn.Conv2d(wide, wide, 4, 1, 2) for _ in range(5)]
        self.decoder = nn.ModuleList([*decoder, nn.Conv2d(wide, wide, 3, 1, 1)])
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(width, eps=keys.eps, affine=keys.affine)
            for width in [*widths[1:], *[wide] * 6]
        )
        self.out = nn.Conv2d(wide, channels, 3, 1, 1)
        self.last = nn.ReLU() if keys.last_act == "relu" else nn.Identity()
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        height, width = int(image.shape[-2]), int(image.shape[-1])
        x = (image - self.mean) / self.std
        for number, conv in enumerate(self.encoder):
            x = F.relu(self.norms[number](conv(x)))
        sizes = zip(decoder_sizes(height), decoder_sizes(width), strict=True)
        for number, (conv, size) in enumerate(zip(self.decoder, sizes, strict=True)):
            x = F.interpolate(x, size=size, mode="bilinear")
            x = F.relu(self.norms[len(self.encoder) + number](conv(x)))
        found: Tensor = self.last(self.out(x))
        return found
