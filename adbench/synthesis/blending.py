"""What the Perlin family shares: masks that are not empty, and sources blended in under them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from adbench.errors import UserError
from adbench.synthesis.base import Synthesizer, Synthetic
from adbench.synthesis.foreground import ForegroundBank
from adbench.synthesis.perlin import perlin_masks, uniform
from adbench.synthesis.settings import ForegroundSynthesizerKeys, PerlinKeys

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule


def composed(
    image: Tensor, source: Tensor, mask: Tensor, opacity: Tensor, *, truncate: bool = False
) -> Tensor:
    """Return (1-o) image + o source inside the mask; outside, ``image`` bit for bit.

    Args:
        image, source: [B, C, H, W].
        mask: [B, 1, H, W] bool.
        opacity: [B] in 0..1; 1 replaces the image.
        truncate: bring composites in 0..1 down to the next of 256 levels, as RealNet's code does.
    """
    share = opacity.view(-1, 1, 1, 1)
    mixed = share * source + (1 - share) * image
    if truncate:
        mixed = (mixed * 255 + 1e-3).floor_().div_(255)  # k/255 times 255 may fall below k
    return torch.where(mask, mixed, image)


def nonempty_masks(
    count: int,
    draw: Callable[[int], Tensor],
    foreground: Tensor | None,
    generator: Generator,
    *,
    grid: int = 1,
    tries: int = 50,
) -> Tensor:
    """Return masks [count, H, W] bool inside the foreground, drawn again where nothing is left.

    Args:
        draw: returns so many masks [n, H, W] bool.
        foreground: [count, 1, H, W] bool or None.
        generator: whose device the masks lie on.
        grid: "nothing" is judged after max-pooling by this many pixels.
        tries: draws after which an empty mask stays empty.

    Raises:
        UserError: the grid is larger than the masks.
    """
    found: Tensor | None = None
    if foreground is not None:
        foreground = foreground.to(generator.device)
    empty = torch.arange(count, device=generator.device)
    for _ in range(tries):
        mask = draw(len(empty))
        if foreground is not None:
            mask &= foreground[empty, 0]
        found = mask if found is None else found.index_copy_(0, empty, mask)
        height, width = (side // grid * grid for side in mask.shape[-2:])
        if not height or not width:
            shape = f"{mask.shape[-2]}x{mask.shape[-1]}"
            raise UserError(f"synthesis.grid={grid}: larger than the images of {shape} pixels")
        empty = empty[~mask[:, :height, :width].flatten(1).any(1)]
        if not len(empty):
            break
    assert found is not None
    return found


class ForegroundSynthesizer(Synthesizer):
    """A synthesizer with a foreground bank and a share of images that stay normal."""

    def __init__(self, keys: ForegroundSynthesizerKeys) -> None:
        self.foreground = ForegroundBank(keys.foreground)
        self.probability = keys.probability

    def prepare(self, datamodule: DataModule) -> None:
        self.foreground.prepare(datamodule)

    def foreground_masks(self, index: Tensor, split: str = "train") -> Tensor | None:
        return self.foreground.masks(index, split)

    def applied(self, count: int, generator: Generator) -> Tensor:
        """Return which of ``count`` images get an anomaly, [count] bool."""
        if self.probability >= 1:
            return torch.ones(count, dtype=torch.bool, device=generator.device)
        return uniform(generator, count) < self.probability


class PerlinBlend(ForegroundSynthesizer):
    """Blends a source into the image under one Perlin mask (papers/002, Sec. 3.1)."""

    def __init__(self, keys: PerlinKeys) -> None:
        super().__init__(keys)
        self.threshold, self.tries, self.truncate = keys.threshold, keys.tries, keys.truncate
        self.exponents, self.opacity = keys.exponents, keys.opacity

    @abstractmethod
    def drawn_source(self, image: Tensor, generator: Generator) -> Tensor:
        """Return pixels to blend in, [B, 3, H, W] in 0..1."""

    def masks(
        self, count: int, size: tuple[int, int], foreground: Tensor | None, generator: Generator
    ) -> Tensor:
        """Return [count, 1, H, W] bool."""

        def draw(number: int) -> Tensor:
            return perlin_masks(
                number, size, generator, threshold=self.threshold, exponents=self.exponents
            )

        return nonempty_masks(count, draw, foreground, generator, tries=self.tries)[:, None]

    def __call__(
        self,
        image: Tensor,
        *,
        foreground: Tensor | None = None,
        source: Tensor | None = None,
        generator: Generator,
    ) -> Synthetic:
        count, size = len(image), (image.shape[-2], image.shape[-1])
        mask = self.masks(count, size, foreground, generator)
        mask &= self.applied(count, generator).view(-1, 1, 1, 1)
        if source is None:
            source = self.drawn_source(image, generator)
        low, high = self.opacity
        opacity = low + (high - low) * uniform(generator, count)
        made = composed(image, source, mask, opacity, truncate=self.truncate)
        return Synthetic(made, mask, opacity, mask.flatten(1).any(1))
