"""The localisation network: DRAEM's discriminative U-Net, two logits for each pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = (1, 2, 4, 8, 8, 8)
_SMOOTH = 1e-5


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for first in (inputs, outputs):
        layers += [nn.Conv2d(first, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class LocalisationNet(nn.Module):
    """Images [B, 3, H, W] in 0..1, sides multiples of 32, to logits [B, 2, H, W].

    Args:
        width: channels of the first level (64 as published).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width * level for level in _LEVELS]
        self.down = nn.ModuleList(
            _double(inputs, outputs) for inputs, outputs in zip([3, *widths], widths, strict=False)
        )
        self.up, self.join = nn.ModuleList(), nn.ModuleList()
        below = widths[-1]
        for outputs, skip in zip([8, 4, 2, 1, 1], reversed(widths[:-1]), strict=True):
            self.up.append(
                nn.Sequential(
                    nn.Conv2d(below, outputs * width, 3, padding=1),
                    nn.BatchNorm2d(outputs * width),
                    nn.ReLU(),
                )
            )
            self.join.append(_double(outputs * width + skip, outputs * width))
            below = outputs * width
        self.out = nn.Conv2d(width, 2, 3, padding=1)
        self.apply(_initialised)

    def forward(self, image: Tensor) -> Tensor:
        skips: list[Tensor] = []
        x = image
        for number, block in enumerate(self.down):
            x = block(x if number == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        x = skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = up(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True))
            x = join(torch.cat([x, skips.pop()], 1))
        found: Tensor = self.out(x)
        return found


def _initialised(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)
        nn.init.zeros_(module.bias)


def focal_loss(logits: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Return the mean of -(1 - p)^gamma log p over pixels, targets smoothed by 1e-5.

    Args:
        logits: [B, 2, H, W].
        mask: [B, 1, H, W] bool.
    """
    log_p = F.log_softmax(logits.float(), 1)
    wanted = torch.cat([~mask, mask], 1).float() * (1 - 2 * _SMOOTH) + _SMOOTH
    p = (wanted * log_p.exp()).sum(1)
    loss: Tensor = -((1 - p).clamp(0, 1) ** gamma * p.clamp_min(1e-12).log()).mean()
    return loss
