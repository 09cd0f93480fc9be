"""Changes of images as they are read: light on training images, dirty backgrounds on all."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adbench.data.batch import pictures
from adbench.data.sample import Sample


class Change(Protocol):
    """Changes one image in a way that (seed, sample, copy) fix."""

    def __call__(self, image: Tensor, sample: Sample, copy: int) -> Tensor:
        """Return [3, H, W] in 0..1 from [3, H, W] in 0..1; copy 0 is the photograph itself."""
        ...


def _draws(seed: int, sample: Sample, copy: int, salt: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(sample.relative.encode()), copy, salt])


@dataclass(frozen=True, slots=True)
class Light:
    """Draws another exposure for every copy of a training image.

    Attributes:
        brightness: b; the whole image times a factor from [1 - b, 1 + b].
        contrast: c; differences to the image's mean times a factor from [1 - c, 1 + c].
        seed: fixes every draw.
    """

    brightness: float
    contrast: float
    seed: int = 0

    def __call__(self, image: Tensor, sample: Sample, copy: int) -> Tensor:
        if copy == 0:
            return image
        rng = _draws(self.seed, sample, copy, 0x11)
        bright = rng.uniform(1 - self.brightness, 1 + self.brightness)
        apart = rng.uniform(1 - self.contrast, 1 + self.contrast)
        mean = image.mean()
        return (((image - mean) * apart + mean) * bright).clamp(0, 1)


@dataclass(frozen=True, slots=True)
class DirtyBackground:
    """Colour jitter and noise outside the object (GLASS, appendix D.1); strengths are ours.

    Attributes:
        jitter: j; every channel of the background times a factor from [1 - j, 1 + j].
        noise: largest standard deviation of the Gaussian noise, 0..1; every image draws its own.
        foreground: [H, W] bool of a picture [H, W, 3] uint8: what stays as it is.
        seed: fixes every draw.
    """

    jitter: float
    noise: float
    foreground: Callable[[NDArray[np.uint8]], NDArray[np.bool_]]
    seed: int = 0

    def __call__(self, image: Tensor, sample: Sample, copy: int) -> Tensor:
        rng = _draws(self.seed, sample, copy, 0xD1)
        factor = rng.uniform(1 - self.jitter, 1 + self.jitter, (3, 1, 1))
        grain = rng.normal(0, rng.uniform(0, self.noise), image.shape)
        dirty = image * torch.from_numpy(factor) + torch.from_numpy(grain)
        kept = torch.from_numpy(self.foreground(pictures(image[None])[0]))
        return torch.where(kept, image, dirty.clamp(0, 1).to(image.dtype))
