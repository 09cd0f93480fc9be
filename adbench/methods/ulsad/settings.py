"""The sections of conf/model/ulsad.yaml as frozen records that refuse unknown keys."""

from __future__ import annotations

from dataclasses import dataclass

from adbench.errors import UserError
from adbench.methods.keys import chosen


def _share(value: float, key: str) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"model.{key}={value}: a number in [0, 1] is expected")


@dataclass(frozen=True, slots=True)
class FrnKeys:
    """Feature reconstruction network (Table 4)."""

    mid: int | None = None
    out_act: str = "relu"
    conv3_act: str = "none"
    activation: str = "relu"
    order: str = "conv_bn_act"

    def __post_init__(self) -> None:
        chosen(self.out_act, ("relu", "none"), "frn.out_act")
        chosen(self.conv3_act, ("relu", "none"), "frn.conv3_act")
        chosen(self.activation, ("relu", "leaky_relu"), "frn.activation")
        chosen(self.order, ("conv_bn_act", "conv_act_bn"), "frn.order")
        if self.mid is not None and (self.mid < 4 or self.mid % 4):
            raise UserError(f"model.frn.mid={self.mid}: a positive multiple of 4 is expected")


@dataclass(frozen=True, slots=True)
class AutoencoderKeys:
    """Global autoencoder (Table 5)."""

    narrow: int = 32
    wide: int = 64
    last_act: str = "none"
    affine: bool = False
    eps: float = 1e-4

    def __post_init__(self) -> None:
        chosen(self.last_act, ("relu", "none"), "autoencoder.last_act")


@dataclass(frozen=True, slots=True)
class LossKeys:
    """Which terms are summed and how much the cosine distance weighs in each (Tables 3, 21)."""

    local: bool = True
    global_term: str = "attention"
    local_global: bool = True
    lambda_l: float = 0.5
    lambda_g: float = 0.5
    lambda_a: float | None = None
    detach: bool = False

    def __post_init__(self) -> None:
        chosen(self.global_term, ("none", "attention", "direct"), "loss.global_term")
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

    alpha: float = 0.9
    beta: float = 0.995
    sigma: float = 4.0

    def __post_init__(self) -> None:
        _share(self.alpha, "map.alpha")
        _share(self.beta, "map.beta")
        if self.alpha >= self.beta:
            raise UserError(f"model.map.alpha={self.alpha} must be below map.beta={self.beta}")
        if self.sigma < 0:
            raise UserError(f"model.map.sigma={self.sigma}: pixels, 0 for none")


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Caches of frozen features and of the attention target."""

    features: bool = True
    attention: bool = True
    dtype: str = "float16"
    max_memory: int = 4 << 30

    def __post_init__(self) -> None:
        chosen(self.dtype, ("float16", "float32"), "cache.dtype")
        if self.attention and not self.features:
            raise UserError("model.cache.attention=true needs model.cache.features=true")
