"""The keys of conf/model/simplenet.yaml, their types, ranges and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from adbench.config.typed import Bytes, NonNegative, Positive, Rate, Side, Width, Within


@dataclass(frozen=True, slots=True)
class NoiseKeys:
    """What is added to normal features: deviation ``sigma``, of the unit or of each column."""

    sigma: Positive = 0.015
    unit: Literal["one", "column"] = "one"


@dataclass(frozen=True, slots=True)
class OptimiserKeys:
    """Adam: rates of adaptor and discriminator, their decay (L2), schedule over the budget."""

    adaptor_lr: Rate = 1e-4
    discriminator_lr: Rate = 2e-4
    discriminator_decay: NonNegative = 1e-5
    schedule: Literal["constant", "cosine"] = "constant"


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Frozen features: number format and bytes allowed in memory."""

    dtype: Literal["float16", "float32"] = "float16"
    max_memory: Bytes = 4 << 30


@dataclass(frozen=True, slots=True)
class SimplenetKeys:
    """conf/model/simplenet.yaml, section ``model``.

    Attributes:
        patch: side of the averaged neighbourhood; None: 3, or 1 where all layers have one stride.
        adaptor: a trained linear map in front; false uses the features as they are.
        hidden: width of the discriminator's hidden layer.
        margin: beyond which a logit costs nothing.
        score: image score: largest ``grid`` value or largest of the smoothed ``map``.
        sigma: of the Gaussian on the map, pixels at the working size.
    """

    patch: Side | None = None
    adaptor: bool = True
    hidden: Width = 1024
    noise: NoiseKeys = NoiseKeys()
    margin: Positive = 0.5
    score: Literal["grid", "map"] = "grid"
    sigma: Annotated[float, Within(0, 256)] = 4.0
    optimiser: OptimiserKeys = OptimiserKeys()
    cache: CacheKeys = CacheKeys()
