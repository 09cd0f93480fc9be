"""Feature reconstruction network psi with a doubled output (Table 4, as corrected)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from adbench.methods.ulsad.settings import FrnKeys

# The authors draw for a leaky ReLU of slope 0.01 though a ReLU follows.
_GAIN = math.sqrt(2 / (1 + 0.01**2))


class _Layer(nn.Module):
    """Convolution, batch norm and activation in the order asked for."""

    def __init__(self, conv: nn.Module, channels: int, act: nn.Module, order: str) -> None:
        super().__init__()
        self.conv, self.norm, self.act = conv, nn.BatchNorm2d(channels), act
        self.act_first = order == "conv_act_bn"

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        found: Tensor = self.norm(self.act(x)) if self.act_first else self.act(self.norm(x))
        return found


class ReconstructionNetwork(nn.Module):
    """psi: U [B, c, h, w] -> [B, 2c, h, w]; h and w are multiples of 4.

    The first c channels rebuild U (local), the last c predict the global autoencoder.

    Args:
        channels: c.
        keys: widths and activations; ``mid`` (default 4c) is the width of the bottleneck.
    """

    def __init__(self, channels: int, keys: FrnKeys) -> None:
        super().__init__()
        c, mid = channels, keys.mid or 4 * channels
        self.channels = channels
        down, up = nn.Conv2d, nn.ConvTranspose2d

        def layer(conv: nn.Module, width: int, name: str = keys.activation) -> _Layer:
            return _Layer(conv, width, _activation(name), keys.order)

        third = keys.activation if keys.conv3_act == "relu" else "none"
        self.conv1 = layer(down(c, mid // 2, 3, 2, 1), mid // 2)
        self.conv2 = layer(down(mid // 2, mid, 3, 2, 1), mid)
        self.conv3 = layer(down(mid, mid, 3, 1, 1), mid, third)
        self.up1 = layer(up(mid, mid // 2, 4, 2, 1), mid // 2)
        self.up2 = layer(up(mid // 2, mid // 4, 4, 2, 1), mid // 4)
        self.up3 = layer(up(mid // 4, 2 * c, 5, 1, 2), 2 * c, keys.out_act)
        for part in self.modules():
            if isinstance(part, down | up):
                nn.init.xavier_uniform_(part.weight, gain=_GAIN)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return (local, global) halves, [B, c, h, w] each."""
        x = self.conv3(self.conv2(self.conv1(u)))
        x = self.up3(self.up2(self.up1(x)))
        local, second = torch.split(x, self.channels, dim=1)
        return local, second


def _activation(name: str) -> nn.Module:
    return {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "none": nn.Identity}[name]()
