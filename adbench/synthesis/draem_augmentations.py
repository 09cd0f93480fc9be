"""The ten augmentations that DRAEM, RealNet and MemSeg's re-implementation give their textures.

Batched counterparts of the image library they use; ranges as in papers/002's code. Where that
library draws at random between equivalent colour spaces, RGB is taken.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

from adbench.synthesis.augmentations import (
    Operation,
    autocontrast,
    drawn_between,
    equalised,
    from_hue,
    hue_chroma_value,
    turned,
)
from adbench.synthesis.perlin import uniform


def gamma(image: Tensor, generator: Generator) -> Tensor:
    """Raise every channel to a power of its own in 0.5..2."""
    return image ** (0.5 + 1.5 * uniform(generator, len(image), 3, 1, 1))


def scaled_and_shifted(image: Tensor, generator: Generator) -> Tensor:
    """Scale by 0.8..1.2 and add up to 30 of 255 levels either way."""
    scale = drawn_between(image, generator, 0.8, 1.2)
    return (image * scale + drawn_between(image, generator, -30, 30) / 255).clamp(0, 1)


def sharpened(image: Tensor, generator: Generator) -> Tensor:
    """Move away from a 3 x 3 smoothing (factor above 1) or towards it, factor 0.1..1.9."""
    sums = functional.avg_pool2d(image, 3, stride=1, padding=1, divisor_override=1)
    smooth = (sums + 4 * image) / 13
    inner = torch.ones_like(image[:1, :1], dtype=torch.bool)
    inner[..., (0, -1), :] = False
    inner[..., :, (0, -1)] = False
    smooth = torch.where(inner, smooth, image)
    return torch.lerp(smooth, image, drawn_between(image, generator, 0.1, 1.9)).clamp(0, 1)


def recoloured(image: Tensor, generator: Generator) -> Tensor:
    """Add up to 50 of 255 levels either way to hue and to saturation."""
    hue, chroma, value = hue_chroma_value(image)
    shift = (2 * uniform(generator, 2, len(image), 1, 1) - 1) * 50 / 255
    saturation = (chroma / value.clamp_min(1e-8) + shift[1]).clamp(0, 1)
    return from_hue(hue + shift[0], saturation * value, value)


def solarised(image: Tensor, generator: Generator) -> Tensor:
    """Invert values from a threshold of 32..128 of 255 upwards, for every other image."""
    threshold = drawn_between(image, generator, 32, 128) / 255
    chosen = uniform(generator, len(image), 1, 1, 1) < 0.5
    return torch.where(chosen & (image >= threshold), 1 - image, image)


def posterised(image: Tensor, generator: Generator) -> Tensor:
    """Keep the highest 1 to 8 bits."""
    bits = torch.randint(1, 9, (len(image), 1, 1, 1), generator=generator, device=generator.device)
    step = 2.0 ** (8 - bits)
    return ((image * 255).round_() / step).floor_() * step / 255


def inverted(image: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001
    """The negative."""
    return 1 - image


TEN_OPERATIONS: tuple[Operation, ...] = (
    gamma,
    scaled_and_shifted,
    sharpened,
    recoloured,
    solarised,
    posterised,
    inverted,
    autocontrast,
    equalised,
    turned,
)
