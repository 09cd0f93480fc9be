"""Textures under one Perlin mask: DRAEM's anomalies, which RealNet calls DTD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Generator, Tensor

from adbench.synthesis.augmentations import augmented
from adbench.synthesis.blending import PerlinBlend
from adbench.synthesis.draem_augmentations import TEN_OPERATIONS
from adbench.synthesis.textures import texture_source

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule


class Draem(PerlinBlend):
    """A texture, after three of ten augmentations, blended in with uniform opacity.

    DRAEM also rotates normal images in three of ten cases; that is an augmentation of the data,
    which no synthesizer here touches outside its mask.

    Args:
        textures: keys of the texture source.
        augmentations: how many of the ten each texture gets.
        keys: of PerlinBlend: foreground, threshold, exponents, opacity, probability, tries,
            truncate.
    """

    def __init__(
        self, *, textures: Mapping[str, Any] | None = None, augmentations: int = 3, **keys: Any
    ) -> None:
        super().__init__(**keys)
        self.textures = texture_source(**dict(textures or {}))
        self.augmentations = augmentations

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
