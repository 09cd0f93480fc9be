"""Training of the reference: the median picture and each pixel's deviation from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adbench.config.typed import from_mapping
from adbench.methods.base import Requirements, seeded_generator
from adbench.methods.once import OnePassModule
from adbench.methods.reference.detector import ReferenceDetector
from adbench.methods.reference.settings import ReferenceKeys
from adbench.synthesis.base import Synthesizer

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

_DRAWN = 0x3ED1A
_NORMAL = 1.4826  # median absolute deviation of a Gaussian times this is its standard deviation
_ROWS = 16  # of pixels whose values are sorted at a time


class ReferenceModule(OnePassModule):
    """The reference around its detector.

    Args:
        backbone, synthesis: not used; pictures are compared as they are.
        image_size: working (height, width).
        seed: fixes which images are drawn.
        keys: those of ``ReferenceKeys``.
    """

    detector: ReferenceDetector

    def __init__(
        self,
        *,
        backbone: nn.Module | None,
        synthesis: Synthesizer | None,
        image_size: Sequence[int],
        seed: int,
        **keys: Any,
    ) -> None:
        super().__init__()
        self.seed, self.keys = seed, from_mapping(ReferenceKeys, keys, "model")
        self.detector = ReferenceDetector(image_size, self.keys.sigma)

    def requirements(self, train_images: int) -> Requirements:
        """Return what holds; the estimate: two pictures, the drawn images, some rows as numbers."""
        height, width = self.detector.image_size
        images = min(train_images, self.keys.images)
        return Requirements(
            one_pass=True,
            memory_bytes=24 * height * width + 3 * images * width * (height + 3 * 4 * _ROWS),
        )

    @torch.no_grad()
    def prepare(self, datamodule: DataModule) -> None:
        count = len(datamodule.train_samples)
        generator = seeded_generator("cpu", self.seed, _DRAWN)
        drawn = torch.randperm(count, generator=generator)[: self.keys.images].sort().values
        pixels = torch.cat(
            [(datamodule.train_images(i) * 255).round().byte() for i in drawn.split(32)]
        )
        for start in range(0, pixels.shape[2], _ROWS):
            part = slice(start, start + _ROWS)
            values = pixels[:, :, part].float() / 255
            median = values.median(0).values
            deviation = (values - median).abs().median(0).values * _NORMAL
            self.detector.median[:, part] = median
            self.detector.deviation[:, part] = deviation + self.keys.floor
