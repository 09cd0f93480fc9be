"""The keys of conf/model/dfr.yaml, their types, ranges and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from adbench.config.typed import Bytes, Count, Rate, Side, Width, Within
from adbench.errors import UserError


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Cache of frozen features: used or not, number format, bytes allowed in memory."""

    features: bool = True
    dtype: Literal["float16", "float32"] = "float16"
    max_memory: Bytes = 4 << 30


@dataclass(frozen=True, slots=True)
class DfrKeys:
    """conf/model/dfr.yaml, section ``model``.

    Attributes:
        latent: d; None takes the principal components that explain ``variance``.
        variance: share of the variance.
        pca_images: training images, drawn by seed, whose vectors decide.
        patch, stride: side and step of the regions, pixels.
        positions: regions of an image that a step draws; None takes all.
        sigma: blur of the final map in pixels, 0 for none.
        learning_rate: of Adam.
    """

    latent: Width | None = None
    variance: Annotated[float, Within(0, 1, above=True, below=True)] = 0.9
    pca_images: Count = 10
    patch: Side = 4
    stride: Side = 4
    positions: Count | None = None
    sigma: Annotated[float, Within(0, 256)] = 0.0
    cache: CacheKeys = CacheKeys()
    learning_rate: Rate = 1e-4

    def __post_init__(self) -> None:
        if self.patch < self.stride or (self.patch - self.stride) % 2:
            raise UserError(
                f"model.patch={self.patch}, model.stride={self.stride}: patch must be stride plus "
                "an even number, e.g. patch=4 stride=4"
            )
