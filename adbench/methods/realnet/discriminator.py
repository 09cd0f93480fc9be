"""From the selected residuals to two logits a pixel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from adbench.methods.realnet.reconstruction import ResidualLayer


class Discriminator(nn.Module):
    """A small convolutional network (the paper calls it an MLP with upsampling layers).

    Args:
        channels: of the residual maps, which are at least 0.
        layers: residual layers before the maps are narrowed.
    """

    def __init__(self, channels: int, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ResidualLayer(channels, channels, positive=number == 0) for number in range(layers)
        )
        self.entry = nn.Conv2d(channels, 128, 3, padding=1)
        self.norm = nn.BatchNorm2d(128, momentum=0.1)
        self.narrow = nn.Sequential(
            nn.Conv2d(128, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 8, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)
        )

    def entry_maps(self, residuals: Tensor) -> Tensor:
        """Return [B, 128, h, w]: what the batch norm sees of residuals [B, r, h, w]."""
        x = residuals
        for layer in self.layers:
            x = layer(x)
        maps: Tensor = self.entry(F.relu(x))
        return maps

    def forward(self, residuals: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits [B, 2, H, W] at ``size`` from residuals [B, r, h, w]."""
        x = self.narrow(F.relu(self.norm(self.entry_maps(residuals))))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        return F.interpolate(self.head(x), size=size, mode="bilinear", align_corners=True)
