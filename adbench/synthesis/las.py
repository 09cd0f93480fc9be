"""Local anomalies of GLASS (papers/000, Sec. 3.3 and App. A): texture under a Perlin mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from adbench.config.typed import from_mapping
from adbench.synthesis.augmentations import augmented
from adbench.synthesis.base import Synthetic
from adbench.synthesis.blending import ForegroundSynthesizer, composed, nonempty_masks
from adbench.synthesis.perlin import perlin_masks, uniform
from adbench.synthesis.settings import OPS, LasKeys
from adbench.synthesis.textures import texture_source

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule


def combined(first: Tensor, second: Tensor, draw: Tensor, ops: Sequence[str] = OPS) -> Tensor:
    """Return masks [B, H, W] joined as ``draw`` [B] in [0, 1) says (Eq. 3).

    The unit interval is divided evenly among ``ops`` in the order single, intersection, union.
    """
    kept = [name for name in OPS if name in ops]
    number = (draw * len(kept)).long().clamp_max(len(kept) - 1)[:, None, None]
    result = first
    for place, name in enumerate(kept):
        if name != "single":
            joined = first & second if name == "intersection" else first | second
            result = torch.where(number == place, joined, result)
    return result


def blended(image: Tensor, texture: Tensor, mask: Tensor, beta: Tensor) -> Tensor:
    """Return x(1-m) + (1-b) texture m + b x m (Eq. 4); bit-equal to ``image`` outside the mask.

    Args:
        image, texture: [B, 3, H, W].
        mask: [B, 1, H, W] bool.
        beta: [B] transparency of the texture; the larger, the weaker the defect.
    """
    return composed(image, texture, mask, 1 - beta)


class Las(ForegroundSynthesizer):
    """Texture blended into the image under a mask made of two Perlin masks.

    Args:
        keys: those of LasKeys.
    """

    def __init__(self, **keys: Any) -> None:
        made = from_mapping(LasKeys, keys, "synthesis")
        super().__init__(made)
        self.textures = texture_source(made.textures)
        self.ops, self.threshold, self.exponents = made.ops, made.threshold, made.exponents
        self.beta = (made.beta_mean, made.beta_std, made.beta_low, made.beta_high)
        self.augmentations, self.grid = made.augmentations, made.grid

    @property
    def record(self) -> dict[str, Any]:
        return {"textures": self.textures.record}

    def prepare(self, datamodule: DataModule) -> None:
        super().prepare(datamodule)
        self.textures.prepare(datamodule)

    def __call__(
        self,
        image: Tensor,
        *,
        foreground: Tensor | None = None,
        source: Tensor | None = None,
        generator: Generator,
    ) -> Synthetic:
        size = (image.shape[-2], image.shape[-1])
        mask = self.masks(len(image), size, foreground, generator)
        mask &= self.applied(len(image), generator).view(-1, 1, 1, 1)
        if source is None:
            source = self.textures.draw(
                len(image),
                size,
                generator,
                lambda drawn: augmented(drawn, generator, self.augmentations),
            )
        beta = self._transparency(len(image), generator)
        made = blended(image, source, mask, beta)
        return Synthetic(made, mask, 1 - beta, mask.flatten(1).any(1))

    def _transparency(self, count: int, generator: Generator) -> Tensor:
        mean, std, low, high = self.beta
        drawn = torch.randn(count, generator=generator, device=generator.device)
        return (mean + std * drawn).clamp(low, high)

    def masks(
        self,
        count: int,
        size: tuple[int, int],
        foreground: Tensor | None,
        generator: Generator,
    ) -> Tensor:
        """Return [count, 1, H, W] bool, drawn again where nothing is left on the grid."""

        def draw(number: int) -> Tensor:
            first, second = perlin_masks(
                2 * number,
                size,
                generator,
                threshold=self.threshold,
                exponents=self.exponents,
            ).chunk(2)
            return combined(first, second, uniform(generator, number), self.ops)

        return nonempty_masks(count, draw, foreground, generator, grid=self.grid)[:, None]
