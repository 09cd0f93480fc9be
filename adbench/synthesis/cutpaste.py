"""CutPaste and its scar variant: a piece of the image itself, pasted elsewhere."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

from adbench.config.typed import from_mapping
from adbench.synthesis.augmentations import jittered
from adbench.synthesis.base import Synthetic
from adbench.synthesis.blending import ForegroundSynthesizer
from adbench.synthesis.perlin import uniform
from adbench.synthesis.settings import CutPasteKeys, CutPasteScarKeys, PastingKeys


class Pieces(NamedTuple):
    """Rectangles to move, all in pixels; pixel k covers k-0.5..k+0.5.

    Attributes:
        side: [B, 2] height and width.
        origin, target: [B, 2] row and column of the centres.
        degrees: [B] clockwise turn on the screen.
    """

    side: Tensor
    origin: Tensor
    target: Tensor
    degrees: Tensor


def pasted(image: Tensor, pieces: Pieces) -> tuple[Tensor, Tensor]:
    """Return the image moved so that each piece lies at its target, and where that is.

    Returns:
        [B, C, H, W], bilinear, meaningful inside the mask; [B, 1, H, W] bool.
    """
    height, width = image.shape[-2:]
    y = torch.arange(height, device=image.device, dtype=torch.float32).view(1, -1, 1)
    x = torch.arange(width, device=image.device, dtype=torch.float32).view(1, 1, -1)
    y = y - pieces.target[:, 0].view(-1, 1, 1)
    x = x - pieces.target[:, 1].view(-1, 1, 1)
    radians = torch.deg2rad(pieces.degrees).view(-1, 1, 1)
    along_y = y * radians.cos() - x * radians.sin()
    along_x = x * radians.cos() + y * radians.sin()
    half = pieces.side.view(-1, 2, 1, 1) / 2
    mask = (along_y.abs() <= half[:, 0]) & (along_x.abs() <= half[:, 1])
    row = along_y + pieces.origin[:, 0].view(-1, 1, 1)
    column = along_x + pieces.origin[:, 1].view(-1, 1, 1)
    grid = torch.stack((2 * column / max(width - 1, 1) - 1, 2 * row / max(height - 1, 1) - 1), -1)
    moved = functional.grid_sample(image, grid, padding_mode="border", align_corners=True)
    return moved, mask[:, None]


def placed_centres(side: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
    """Return centres [B, 2] of upright rectangles that lie wholly, pixel by pixel, in the image."""
    room = torch.tensor(size, device=side.device) - side
    corner = (uniform(generator, len(side), 2) * (room + 1)).floor().clamp_min(0)
    return corner.minimum(room.clamp_min(0)) + (side - 1) / 2


class _Pasting(ForegroundSynthesizer):
    """Pastes jittered pieces of the image (or of ``source``), opaque."""

    def __init__(self, keys: PastingKeys) -> None:
        super().__init__(keys)
        self.jitter, self.tries = keys.jitter, keys.tries

    @abstractmethod
    def pieces(self, count: int, size: tuple[int, int], generator: Generator) -> Pieces:
        """Return drawn pieces for ``count`` images."""

    def __call__(
        self,
        image: Tensor,
        *,
        foreground: Tensor | None = None,
        source: Tensor | None = None,
        generator: Generator,
    ) -> Synthetic:
        count, size = len(image), (image.shape[-2], image.shape[-1])
        source = jittered(image if source is None else source, generator, self.jitter)
        if foreground is not None:
            foreground = foreground.to(image.device)
        made, mask = image.clone(), torch.zeros_like(image[:, :1], dtype=torch.bool)
        rows = self.applied(count, generator).nonzero()[:, 0]
        for _ in range(self.tries):
            if not len(rows):
                break
            moved, region = pasted(source[rows], self.pieces(len(rows), size, generator))
            if foreground is not None:
                region &= foreground[rows]
            made[rows] = torch.where(region, moved, image[rows])
            mask[rows] = region
            rows = rows[~region.flatten(1).any(1)]
        strength = torch.ones(count, device=image.device)
        return Synthetic(made, mask, strength, mask.flatten(1).any(1))


class CutPaste(_Pasting):
    """A rectangle of the image pasted elsewhere, upright.

    Args:
        keys: those of CutPasteKeys.
    """

    def __init__(self, **keys: Any) -> None:
        made = from_mapping(CutPasteKeys, keys, "synthesis")
        super().__init__(made)
        self.area, self.aspect = made.area, made.aspect

    def pieces(self, count: int, size: tuple[int, int], generator: Generator) -> Pieces:
        low, high = self.area
        area = (low + (high - low) * uniform(generator, count)) * size[0] * size[1]
        draw = uniform(generator, count)
        flat = self.aspect + (1 - self.aspect) * draw
        tall = 1 + (1 / self.aspect - 1) * draw
        ratio = torch.where(uniform(generator, count) < 0.5, flat, tall)
        side = torch.stack(((area * ratio).sqrt(), (area / ratio).sqrt()), 1).round()
        side = side.clamp_min(1).minimum(torch.tensor(size, device=side.device) - 1)
        origin = placed_centres(side, size, generator)
        target = placed_centres(side, size, generator)
        return Pieces(side, origin, target, torch.zeros_like(area))


class CutPasteScar(_Pasting):
    """A thin strip of the image pasted elsewhere, turned.

    Args:
        keys: those of CutPasteScarKeys.
    """

    def __init__(self, **keys: Any) -> None:
        made = from_mapping(CutPasteScarKeys, keys, "synthesis")
        super().__init__(made)
        self.thickness, self.length = made.thickness, made.length
        self.at_size, self.degrees = made.at_size, made.degrees

    def pieces(self, count: int, size: tuple[int, int], generator: Generator) -> Pieces:
        scale = min(size) / self.at_size
        drawn = [
            scale * (low + (high - low) * uniform(generator, count))
            for low, high in (self.length, self.thickness)
        ]
        side = torch.stack(drawn, 1).round().clamp_min(1)
        degrees = self.degrees * (2 * uniform(generator, count) - 1)
        origin = placed_centres(side, size, generator)
        reach = (side.square().sum(1, keepdim=True).sqrt() + 1).ceil().expand(-1, 2)
        target = placed_centres(reach, size, generator)
        return Pieces(side, origin, target, degrees)
