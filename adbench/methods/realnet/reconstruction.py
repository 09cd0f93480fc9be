"""Reconstruction networks: from features of a damaged image to those of the whole one."""

from __future__ import annotations

from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adbench.methods.realnet.settings import ReconstructionKeys


class GroupNorm(nn.GroupNorm):
    """Group norm of 32 groups, of fewer where 32 does not divide the channels.

    A group of a single value is allowed whatever the batch: it normalises to 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(gcd(32, channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class UpConvolution(nn.Module):
    """Doubles a map by a transposed 4x4 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(x)
        return doubled


class ResidualBlock(nn.Module):
    """h = conv3x3(resample(SiLU(GN(x)))), y = skip(resample(x)) + h; one convolution."""

    def __init__(self, channels: int, out: int, resample: str = "none") -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNorm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        same = channels == out
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out, 1)
        up, down = resample == "up", resample == "down"
        pool = nn.AvgPool2d(2) if down else nn.Identity()
        self.h_upd = UpConvolution(channels) if up else pool
        self.x_upd = UpConvolution(channels) if up else pool

    def forward(self, x: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        y: Tensor = self.skip_connection(self.x_upd(x)) + conv(self.h_upd(act(norm(x))))
        return y


class AttentionBlock(nn.Module):
    """x + proj(attention(GN(x))) over all positions, heads of ``head`` channels."""

    def __init__(self, channels: int, head: int) -> None:
        super().__init__()
        self.heads = channels // gcd(channels, head)
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        # Laid out head by head as [q, k, v], each [B, heads, d, n].
        stacked = self.qkv(self.norm(flat)).unflatten(1, (self.heads, 3, -1))
        q, k, v = (part.transpose(-1, -2) for part in stacked.unbind(2))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).flatten(1, 2)
        y: Tensor = (flat + self.proj_out(mixed)).view_as(x)
        return y


def zeroed(layer: nn.Module) -> nn.Module:
    """Return ``layer`` with all parameters zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ReconstructionUNet(nn.Module):
    """The U-Net of one block, [B, c, h, w] -> [B, c, h, w]; zero at the start.

    Parameters carry the names of the guided-diffusion U-Net from which the authors took it.
    Height and width must be multiples of 2^(levels - 1).
    """

    def __init__(self, channels: int, width: int, keys: ReconstructionKeys) -> None:
        super().__init__()
        self.head = keys.head_channels
        self.attention = keys.attention
        first: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1)]
        self.input_blocks = nn.ModuleList(first)
        skips, now, factor = [width], width, 1
        for level, mult in enumerate(keys.mult):
            for _ in range(keys.blocks):
                self.input_blocks.append(self._stage(now, width * mult, factor))
                now = width * mult
                skips.append(now)
            if level + 1 < len(keys.mult):
                self.input_blocks.append(ResidualBlock(now, now, "down"))
                skips.append(now)
                factor *= 2
        middle = (ResidualBlock(now, now), AttentionBlock(now, self.head), ResidualBlock(now, now))
        self.middle_block = nn.Sequential(*middle)
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(keys.mult))):
            for place in range(keys.blocks + 1):
                stage = self._stage(now + skips.pop(), width * mult, factor)
                now = width * mult
                if level and place == keys.blocks:
                    stage.append(ResidualBlock(now, now, "up"))
                    factor //= 2
                self.output_blocks.append(stage)
        last = zeroed(nn.Conv2d(now, channels, 3, padding=1))
        self.out = nn.Sequential(GroupNorm(now), nn.SiLU(), last)

    def _stage(self, channels: int, out: int, factor: int) -> nn.Sequential:
        stage = nn.Sequential(ResidualBlock(channels, out))
        if factor in self.attention:
            stage.append(AttentionBlock(out, self.head))
        return stage

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.input_blocks:
            x = block(x)
            skips.append(x)
        x = self.middle_block(x)
        for block in self.output_blocks:
            x = block(torch.cat((x, skips.pop()), 1))
        y: Tensor = self.out(x)
        return y


class ReconstructionSimple(nn.Module):
    """The second network of the authors' code, never configured by them; [B, c, h, w] -> same."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        c = channels
        self.fine = nn.Sequential(*_conv_norm(c, c), *_conv_norm(c, 2 * c), nn.AvgPool2d(2))
        self.coarse = nn.Sequential(
            *_conv_norm(2 * c, 2 * c), *_conv_norm(2 * c, 4 * c), nn.AvgPool2d(2)
        )
        self.layers = nn.ModuleList(ResidualLayer(4 * c, 2 * c) for _ in range(layers))
        self.up_coarse = nn.ConvTranspose2d(8 * c, 2 * c, 4, stride=2, padding=1)
        self.up_fine = nn.ConvTranspose2d(4 * c, c, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        coarse = self.coarse(fine)
        y = coarse
        for layer in self.layers:
            y = layer(y)
        y = F.relu(self.up_coarse(torch.cat((F.relu(y), coarse), 1)))
        up: Tensor = self.up_fine(torch.cat((y, fine), 1))
        return up


def _conv_norm(channels: int, out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, out, 3, padding=1), nn.InstanceNorm2d(out), nn.ReLU()


class ResidualLayer(nn.Module):
    """x + conv1x1(ReLU(conv3x3(ReLU(x)))), no bias.

    Args:
        channels: in and out; ``hidden`` between the two convolutions.
        positive: the input is known to be at least 0, so that its ReLU changes nothing.
    """

    def __init__(self, channels: int, hidden: int, positive: bool = False) -> None:
        super().__init__()
        self.positive = positive
        self.spatial = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.pointwise = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        start = x if self.positive else F.relu(x)
        y: Tensor = x + self.pointwise(F.relu(self.spatial(start)))
        return y


def reconstruction_network(channels: int, keys: ReconstructionKeys) -> nn.Module:
    """Return the network that ``keys`` ask for, for a block of ``channels``."""
    if keys.kind == "simple":
        return ReconstructionSimple(channels, keys.blocks)
    return ReconstructionUNet(channels, max(1, round(keys.width * channels)), keys)
