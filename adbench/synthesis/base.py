"""The one contract of all synthetic anomalies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule
    from adbench.synthesis.foreground import ForegroundBank


class Synthetic(NamedTuple):
    """Images with made-up defects.

    Attributes:
        image: [B, 3, H, W] float32 in 0..1; equal to the input, bit for bit, where mask is False.
        mask: [B, 1, H, W] bool; True where the image was changed on purpose.
        strength: [B] float32; opacity of the defect's source or, for diffusion, its strength s.
        applied: [B] bool; False where the image was left normal (its mask is then empty).
    """

    image: Tensor
    mask: Tensor
    strength: Tensor
    applied: Tensor


class Synthesizer(ABC):
    """Makes anomalous images out of normal ones, a batch at a time, on the input's device.

    Attributes:
        foreground: where defects may lie in each training image, by index; None: everywhere.
    """

    foreground: ForegroundBank | None = None

    @abstractmethod
    def __call__(
        self,
        image: Tensor,
        *,
        foreground: Tensor | None = None,
        source: Tensor | None = None,
        generator: Generator,
    ) -> Synthetic:
        """Return synthetic anomalies.

        Args:
            image: [B, 3, H, W] float32 in 0..1, normal.
            foreground: [B, 1, H, W] bool, where defects may lie; None allows everywhere.
            source: [B, 3, H, W] float32 in 0..1, pixels to blend in (textures, a pool, other
                normal images); None lets the synthesizer draw its own.
            generator: on the image's device; equal states give equal results.
        """

    def prepare(self, datamodule: DataModule) -> None:
        """Read what is drawn from later: foregrounds, textures, the pool. Repeatable."""
        if self.foreground is not None:
            self.foreground.prepare(datamodule)

    def foreground_masks(self, index: Tensor, split: str = "train") -> Tensor | None:
        """Return the foregrounds [B, 1, H, W] bool of the images at ``index`` [B], or None.

        Args:
            split: ``train`` or ``val``: which split ``index`` counts in.
        """
        return None if self.foreground is None else self.foreground.masks(index, split)


def compose(image: Tensor, source: Tensor, mask: Tensor, opacity: Tensor) -> Tensor:
    """Blend ``source`` into ``image`` inside ``mask``; outside the image is kept bit for bit.

    GLASS Eq. 4 with opacity = 1 - beta; RealNet's composition with opacity = delta.

    Args:
        image, source: [B, C, H, W] float, any affine scale.
        mask: [B, 1, H, W] bool.
        opacity: [B] float in 0..1; 1 replaces the image.
    """
    return torch.where(mask, torch.lerp(image, source, opacity.view(-1, 1, 1, 1)), image)


def uniform(low: float, high: float, count: int, generator: Generator) -> Tensor:
    """Return [count] float32 draws from U(low, high) on the generator's device."""
    draws = torch.rand(count, generator=generator, device=generator.device)
    return draws * (high - low) + low


def bernoulli(probability: float, count: int, generator: Generator) -> Tensor:
    """Return [count] bool draws, True with ``probability``."""
    return torch.rand(count, generator=generator, device=generator.device) < probability
