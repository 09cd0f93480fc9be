"""The teacher as a chain of blocks, the student's answers to it, and what both are measured by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from adbench.backbones.bundled_network import MEAN, STD, BundledNetwork, ResidualBlock
from adbench.backbones.weights import load_covering, read_tensors
from adbench.errors import UserError

_EPS = 1e-5  # of ResNet's batch norm


def loaded_teacher(weights: Path) -> BundledNetwork:
    """Return a ResNet-18 to layer3 with its batch norm folded into the convolutions, frozen.

    Raises:
        UserError: the file cannot be read or lacks a tensor.
    """
    state = read_tensors(weights)
    folded = {}
    teacher = BundledNetwork()
    try:
        for name, module in teacher.named_modules():
            if isinstance(module, nn.Conv2d):
                conv, norm = _resnet_names(name)
                scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _EPS).sqrt()
                folded[f"{name}.weight"] = state[f"{conv}.weight"] * scale.view(-1, 1, 1, 1)
                shift = state[f"{norm}.running_mean"] * scale
                folded[f"{name}.bias"] = state[f"{norm}.bias"] - shift
    except KeyError as error:
        raise UserError(f"{weights} is no ResNet-18 to layer3: {error} is missing") from error
    except RuntimeError as error:  # shapes that do not go together
        raise UserError(f"{weights} is no ResNet-18 to layer3: {error}") from error
    load_covering(teacher, folded, str(weights))
    return teacher.requires_grad_(False).eval()


def _resnet_names(name: str) -> tuple[str, str]:
    if name == "stem.conv":
        return "conv1", "bn1"
    block, _, part = name.rpartition(".")
    if part == "shortcut":
        return f"{block}.downsample.0", f"{block}.downsample.1"
    return name, f"{block}.{part.replace('conv', 'bn')}"


def untrained_student() -> BundledNetwork:
    """Return a network whose blocks start near the identity, or near a faint linear map.

    Inputs are smooth and mostly positive: the usual gain would make outputs far too large.
    """
    student = BundledNetwork()
    # Children come after their block, so the zeros of a residual branch are set last.
    for module in reversed(list(student.modules())):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.weight)
            if isinstance(module.shortcut, nn.Conv2d):
                module.shortcut.weight.data.mul_(0.3)
    student.stem.conv.weight.data.mul_(0.2)
    return student


def on_device(network: BundledNetwork, device: torch.device) -> BundledNetwork:
    """Return the network on ``device``, its kernels channels last."""
    network.to(device)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def normalised(image: Tensor) -> Tensor:
    """Return images in 0..1 with ImageNet's mean and deviation removed, channels last."""
    mean = torch.tensor(MEAN, device=image.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=image.device).view(1, 3, 1, 1)
    return ((image - mean) / std).contiguous(memory_format=torch.channels_last)


def chained_outputs(network: BundledNetwork, image: Tensor) -> list[Tensor]:
    """Return the output of stem and every block, each on the output of the one before."""
    outputs, x = [], image
    for block in network.blocks():
        x = block(x)
        outputs.append(x)
    return outputs


@torch.no_grad()
def teacher_outputs(teacher: BundledNetwork, image: Tensor) -> list[Tensor]:
    """Return the teacher's ``chained_outputs``, without a graph."""
    return chained_outputs(teacher, image)


def local_outputs(
    student: BundledNetwork, image: Tensor, targets: Sequence[Tensor]
) -> list[Tensor]:
    """Return each block's output on the teacher's input to that block."""
    inputs = [image, *targets[:-1]]
    return [block(x) for block, x in zip(student.blocks(), inputs, strict=True)]


def standardised_errors(
    outputs: Sequence[Tensor], targets: Sequence[Tensor], variances: Sequence[Tensor]
) -> list[Tensor]:
    """Return per block the channels' mean of squared error over the teacher's variance."""
    return [
        ((output - target).float().square().mean((0, 2, 3)) / variance).mean()
        for output, target, variance in zip(outputs, targets, variances, strict=True)
    ]


def unexplained_shares(outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> list[float]:
    """Return per block the median over channels of the teacher's variance left unexplained."""
    shares = []
    for output, target in zip(outputs, targets, strict=True):
        variance = target.var((0, 2, 3)).clamp(min=1e-6)
        shares.append(float(((output - target).square().mean((0, 2, 3)) / variance).median()))
    return shares
