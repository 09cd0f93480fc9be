"""Augmentations of source images, batched: a few of a set for every image, in drawn order.

The nine are those of papers/000, App. A (and the code that goes with it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from adbench.synthesis.perlin import rotated, uniform

_GREY = (0.299, 0.587, 0.114)
Operation = Callable[[Tensor, Generator], Tensor]


def grey(image: Tensor) -> Tensor:
    """Return luminance [B, 1, H, W] of RGB [B, 3, H, W]."""
    red, green, blue = image.split(1, 1)
    return (red * _GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])


def drawn_between(
    image: Tensor, generator: Generator, low: float = 0.8, high: float = 1.2
) -> Tensor:
    """Return one uniform number for each image of a batch, [B, 1, 1, 1]."""
    return low + (high - low) * uniform(generator, len(image), 1, 1, 1)


def contrast(image: Tensor, generator: Generator) -> Tensor:
    """Scale differences from the mean luminance by 0.8..1.2."""
    mean = grey(image).mean((2, 3), keepdim=True)
    return torch.lerp(mean, image, drawn_between(image, generator)).clamp_(0, 1)


def brightness(image: Tensor, generator: Generator) -> Tensor:
    """Scale by 0.8..1.2."""
    return (image * drawn_between(image, generator)).clamp(0, 1)


def saturation_and_hue(image: Tensor, generator: Generator) -> Tensor:
    """Scale differences from grey by 0.8..1.2, turn the hue by up to 0.2 of a circle."""
    vivid = torch.lerp(grey(image), image, drawn_between(image, generator)).clamp_(0, 1)
    return _hue_turned(vivid, 0.4 * uniform(generator, len(image), 1, 1) - 0.2)


def _hue_turned(image: Tensor, turn: Tensor) -> Tensor:
    """Return RGB with the hue of HSV turned; ``turn`` [B, 1, 1] in circles."""
    hue, chroma, value = hue_chroma_value(image)
    return from_hue(hue + turn, chroma, value)


def hue_chroma_value(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue in circles, chroma and value of RGB [B, 3, H, W], each [B, H, W]."""
    high, low = image.amax(1), image.amin(1)
    chroma = high - low
    span = chroma.clamp_min(1e-8)
    red, green, blue = image.unbind(1)
    hue = torch.where(
        high == red,
        (green - blue) / span,
        torch.where(high == green, 2 + (blue - red) / span, 4 + (red - green) / span),
    )
    return hue / 6, chroma, high


def from_hue(hue: Tensor, chroma: Tensor, value: Tensor) -> Tensor:
    """Return RGB [B, 3, H, W] of hue in circles (any real), chroma and value [B, H, W]."""
    sector = hue * 6

    result = value.new_empty(len(value), 3, *value.shape[1:])
    for place, shift in enumerate((5, 3, 1)):
        k = (sector + shift).remainder_(6)
        ramp = torch.minimum(k, 4 - k).clamp_(0, 1)
        torch.addcmul(value, chroma, ramp, value=-1, out=result[:, place])
    return result


def mirrored(image: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001
    """Left to right."""
    return image.flip(-1)


def upside_down(image: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001
    """Top to bottom."""
    return image.flip(-2)


def without_colour(image: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001
    """Luminance in all channels."""
    return grey(image).expand_as(image)


def autocontrast(image: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001
    """Stretch every channel to 0..1; a constant one stays."""
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    span = high - low
    return torch.where(span > 0, (image - low) / span.clamp_min(1e-8), image)


def equalised(image: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001
    """Flatten every channel's histogram over 256 levels."""
    batch, channels, height, width = image.shape
    level = (image * 255).round().long().clamp_(0, 255).view(batch * channels, -1)
    counts = torch.zeros(batch * channels, 256, device=image.device, dtype=torch.long)
    counts.scatter_add_(1, level, torch.ones_like(level))
    last = counts.gather(1, level.amax(1, keepdim=True))
    step = (height * width - last) // 255
    below = counts.cumsum(1) - counts
    table = ((below + step // 2) // step.clamp_min(1)).clamp_(0, 255)
    found = table.gather(1, level).to(image.dtype) / 255
    flat = image.reshape(batch * channels, -1)
    return torch.where(step > 0, found, flat).view_as(image)


def turned(image: Tensor, generator: Generator) -> Tensor:
    """Rotate by up to 45 degrees either way, nearest pixel, black corners."""
    return rotated(image, 90 * uniform(generator, len(image)) - 45, "nearest")


OPERATIONS: tuple[Operation, ...] = (
    contrast,
    brightness,
    saturation_and_hue,
    mirrored,
    upside_down,
    without_colour,
    autocontrast,
    equalised,
    turned,
)


def augmented(
    image: Tensor,
    generator: Generator,
    count: int = 3,
    operations: Sequence[Operation] = OPERATIONS,
) -> Tensor:
    """Return images [B, 3, H, W] in 0..1 after ``count`` of ``operations`` each.

    They are drawn without replacement, for every image on its own.
    """
    if count == 0:
        return image
    order = uniform(generator, len(image), len(operations)).argsort(1)[:, :count]
    result = image.clone()
    for place in range(count):
        for number, operation in enumerate(operations):
            rows = (order[:, place] == number).nonzero()[:, 0]
            if len(rows):
                result[rows] = operation(result[rows], generator)
    return result


def jittered(image: Tensor, generator: Generator, amount: float) -> Tensor:
    """Return images with brightness, contrast and saturation scaled by 1 +- amount, hue turned.

    Args:
        amount: also the largest turn of the hue, in circles; 0 changes nothing.
    """
    if amount == 0:
        return image
    low, high = 1 - amount, 1 + amount
    bright = (image * drawn_between(image, generator, low, high)).clamp(0, 1)
    mean = grey(bright).mean((2, 3), keepdim=True)
    crisp = torch.lerp(mean, bright, drawn_between(image, generator, low, high)).clamp_(0, 1)
    vivid = torch.lerp(grey(crisp), crisp, drawn_between(image, generator, low, high)).clamp_(0, 1)
    return _hue_turned(vivid, amount * (2 * uniform(generator, len(image), 1, 1) - 1))
