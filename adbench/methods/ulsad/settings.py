"""The keys of conf/model/ulsad.yaml, their types, ranges and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from adbench.config.typed import Bytes, NonNegative, Rate, Share, Width, Within
from adbench.errors import UserError

Activation = Literal["relu", "none"]
Kernel = Literal["full", "fused"]
Weight = Annotated[float, Within(0, 1e6)]
"""How much a cosine distance weighs beside the squared one."""


@dataclass(frozen=True, slots=True)
class FrnKeys:
    """Feature reconstruction network (Table 4)."""

    mid: Annotated[int, Within(4, 65536)] | None = None
    out_act: Activation = "relu"
    conv3_act: Activation = "none"
    activation: Literal["relu", "leaky_relu"] = "relu"
    order: Literal["conv_bn_act", "conv_act_bn"] = "conv_bn_act"

    def __post_init__(self) -> None:
        if self.mid is not None and self.mid % 4:
            raise UserError(f"model.frn.mid={self.mid}: a positive multiple of 4 is expected")


@dataclass(frozen=True, slots=True)
class AutoencoderKeys:
    """Global autoencoder (Table 5)."""

    narrow: Width = 32
    wide: Width = 64
    last_act: Activation = "none"
    affine: bool = False
    eps: Annotated[float, Within(0, 1, above=True)] = 1e-4


@dataclass(frozen=True, slots=True)
class LossKeys:
    """Which terms are summed and how much the cosine distance weighs in each (Tables 3, 21)."""

    local: bool = True
    global_term: Literal["none", "attention", "direct"] = "attention"
    local_global: bool = True
    lambda_l: Weight = 0.5
    lambda_g: Weight = 0.5
    lambda_a: Weight | None = None
    detach: bool = False

    def __post_init__(self) -> None:
        if self.local_global and self.global_term == "none":
            raise UserError(
                "model.loss.local_global=true with global_term=none: nothing ties the autoencoder "
                "to the features; set global_term=attention or local_global=false"
            )
        if not self.local and self.global_term == "none":
            raise UserError("model.loss: every term is off; set local=true or a global_term")

    @property
    def attention_weight(self) -> float:
        """Weight of the cosine distance in the attention or direct loss."""
        return self.lambda_g if self.lambda_a is None else self.lambda_a

    @property
    def uses_autoencoder(self) -> bool:
        return self.global_term != "none"

    @property
    def uses_frn(self) -> bool:
        return self.local or self.local_global


@dataclass(frozen=True, slots=True)
class MapKeys:
    """Quantile normalisation (Eq. 9) and smoothing."""

    alpha: Share = 0.9
    beta: Share = 0.995
    sigma: Annotated[float, Within(0, 256)] = 4.0

    def __post_init__(self) -> None:
        if self.alpha >= self.beta:
            raise UserError(f"model.map.alpha={self.alpha} must be below map.beta={self.beta}")


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Caches of frozen features and of the attention target."""

    features: bool = True
    attention: bool = True
    dtype: Literal["float16", "float32"] = "float16"
    max_memory: Bytes = 4 << 30

    def __post_init__(self) -> None:
        if self.attention and not self.features:
            raise UserError("model.cache.attention=true needs model.cache.features=true")


@dataclass(frozen=True, slots=True)
class UlsadKeys:
    """conf/model/ulsad.yaml, section ``model``.

    Attributes:
        channels: c, width of the pooled feature map.
        attention_kernel: ``full``, or ``fused``: no weights of all pairs are kept.
        learning_rate, weight_decay: of Adam; the decay is added to the gradient.
        channels_last: memory layout of both networks.
    """

    channels: Width = 384
    frn: FrnKeys = FrnKeys()
    autoencoder: AutoencoderKeys = AutoencoderKeys()
    loss: LossKeys = LossKeys()
    map: MapKeys = MapKeys()
    cache: CacheKeys = CacheKeys()
    attention_kernel: Kernel = "full"
    learning_rate: Rate = 2e-4
    weight_decay: NonNegative = 2e-5
    channels_last: bool = False
