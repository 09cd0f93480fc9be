"""The one contract of all synthetic anomalies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Generator, Tensor

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule


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
        stage_folder: where the run's finished stages lie; set by whoever runs them.
    """

    stage_folder: Path | None = None

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

    @property
    def record(self) -> dict[str, Any]:
        """What the anomalies are made of, in plain values for run.json; {}: the image itself."""
        return {}

    def prepare(self, datamodule: DataModule) -> None:
        """Compute what depends on the training images: foregrounds, texture banks."""

    def foreground_masks(self, index: Tensor, split: str = "train") -> Tensor | None:
        """Return where defects may lie on images ``index`` [B] of a split: [B, 1, H, W] bool.

        None allows everywhere. Masks lie on ``index``'s device; ``split`` is ``train`` or ``val``.
        """
        return None
