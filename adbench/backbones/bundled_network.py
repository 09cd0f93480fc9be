"""The network behind ``backbone=bundled``: residual, no batch norm, strides 4, 8 and 16."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (64, 128, 256)
STRIDES = (4, 8, 16)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of images in 0..1


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with biases around a shortcut; [B, C, H, W] -> [B, D, H/s, W/s]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(functional.relu(self.conv1(x), inplace=True))
        return functional.relu(inner + self.shortcut(x), inplace=True)


class Stem(nn.Module):
    """7x7 convolution of stride 2 and a maximum of stride 2: [B, 3, H, W] -> [B, C, H/4, W/4]."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, outputs, 7, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(functional.relu(self.conv(x), inplace=True), 3, 2, 1)


class BundledNetwork(nn.Module):
    """Stem and three stages of two residual blocks; the arithmetic of ResNet-18 to layer3.

    Batch norm is absent: nothing depends on a batch, and inference saves its passes over memory.
    Input is [B, 3, H, W], normalised; output a list of ``layer1`` [B, 64, H/4, W/4], ``layer2``
    [B, 128, H/8, W/8], ``layer3`` [B, 256, H/16, W/16], cut after the last one of ``layers``.
    """

    def __init__(self, layers: Sequence[str] = ("layer1", "layer2", "layer3")) -> None:
        super().__init__()
        self.layers = tuple(layers)
        depth = max(int(name.removeprefix("layer")) for name in self.layers)
        self.stem = Stem(CHANNELS[0])
        inputs = CHANNELS[0]
        for number in range(1, depth + 1):
            outputs = CHANNELS[number - 1]
            first = ResidualBlock(inputs, outputs, 1 if number == 1 else 2)
            stage = nn.Sequential(first, ResidualBlock(outputs, outputs, 1))
            self.add_module(f"layer{number}", stage)
            inputs = outputs
        self.depth = depth

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        found = {}
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f"layer{number}")(x)
            found[f"layer{number}"] = x
        return [found[name] for name in self.layers]

    def blocks(self) -> list[nn.Module]:
        """Return stem and residual blocks in order, each mapping the one before's output."""
        found: list[nn.Module] = [self.stem]
        for number in range(1, self.depth + 1):
            found += list(self.get_submodule(f"layer{number}").children())
        return found
