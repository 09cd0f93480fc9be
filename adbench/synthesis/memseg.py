"""MemSeg's anomalies: under a Perlin mask, a texture or the image's own cells in disorder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from adbench.config.typed import from_mapping
from adbench.synthesis.augmentations import (
    Operation,
    augmented,
    brightness,
    mirrored,
    saturation_and_hue,
    turned,
)
from adbench.synthesis.blending import PerlinBlend
from adbench.synthesis.perlin import uniform
from adbench.synthesis.settings import MemSegKeys
from adbench.synthesis.textures import texture_source

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

STRUCTURE_OPERATIONS: tuple[Operation, ...] = (mirrored, turned, brightness, saturation_and_hue)


def shuffled_cells(image: Tensor, grid: tuple[int, int], generator: Generator) -> Tensor:
    """Return images [B, C, H, W] cut into rows x columns cells that have changed places.

    Sides that the grid does not divide are enlarged to its next multiple and cropped again.
    """
    count, channels, height, width = image.shape
    rows, columns = grid
    tall, wide = -(-height // rows), -(-width // columns)
    if (tall * rows, wide * columns) != (height, width):
        image = functional.interpolate(image, (tall * rows, wide * columns), mode="bilinear")
    cells = image.view(count, channels, rows, tall, columns, wide).permute(0, 2, 4, 1, 3, 5)
    cells = cells.reshape(count, rows * columns, channels, tall, wide)
    order = uniform(generator, count, rows * columns).argsort(1)
    moved = cells.gather(1, order.view(count, -1, 1, 1, 1).expand_as(cells))
    moved = moved.view(count, rows, columns, channels, tall, wide).permute(0, 3, 1, 4, 2, 5)
    joined = moved.reshape(count, channels, rows * tall, columns * wide)
    return joined[..., :height, :width].contiguous()


class MemSeg(PerlinBlend):
    """Half textural, half structural anomalies.

    Args:
        keys: those of MemSegKeys.
    """

    def __init__(self, **keys: Any) -> None:
        made = from_mapping(MemSegKeys, keys, "synthesis")
        super().__init__(made)
        self.textures = texture_source(made.textures)
        self.texture_share, self.augmentations = made.texture_share, made.augmentations
        self.grid = made.grid

    @property
    def record(self) -> dict[str, Any]:
        return {"textures": self.textures.record}

    def prepare(self, datamodule: DataModule) -> None:
        super().prepare(datamodule)
        self.textures.prepare(datamodule)

    def drawn_source(self, image: Tensor, generator: Generator) -> Tensor:
        size = (image.shape[-2], image.shape[-1])
        textural = uniform(generator, len(image)) < self.texture_share
        source = torch.empty_like(image)
        if textural.any():
            source[textural] = self.textures.draw(int(textural.sum()), size, generator)
        own = image[~textural]
        if len(own):
            own = augmented(own, generator, self.augmentations, STRUCTURE_OPERATIONS)
            source[~textural] = shuffled_cells(own, self.grid, generator)
        return source
