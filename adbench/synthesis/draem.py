"""Textures under one Perlin mask: DRAEM's anomalies, which RealNet calls DTD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Generator, Tensor

from adbench.config.typed import from_mapping
from adbench.synthesis.augmentations import augmented
from adbench.synthesis.blending import PerlinBlend
from adbench.synthesis.draem_augmentations import TEN_OPERATIONS
from adbench.synthesis.settings import DraemKeys
from adbench.synthesis.textures import texture_source

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule


class Draem(PerlinBlend):
    """A texture, after three of ten augmentations, blended in with uniform opacity.

    DRAEM also rotates normal images in three of ten cases; that is an augmentation of the data,
    which no synthesizer here touches outside its mask.

    Args:
        keys: those of DraemKeys.
    """

    def __init__(self, **keys: Any) -> None:
        made = from_mapping(DraemKeys, keys, "synthesis")
        super().__init__(made)
        self.textures = texture_source(made.textures)
        self.augmentations = made.augmentations

    @property
    def record(self) -> dict[str, Any]:
        return {"textures": self.textures.record}

    def prepare(self, datamodule: DataModule) -> None:
        super().prepare(datamodule)
        self.textures.prepare(datamodule)

    def drawn_source(self, image: Tensor, generator: Generator) -> Tensor:
        size = (image.shape[-2], image.shape[-1])
        return self.textures.draw(
            len(image),
            size,
            generator,
            lambda drawn: augmented(drawn, generator, self.augmentations, TEN_OPERATIONS),
        )
