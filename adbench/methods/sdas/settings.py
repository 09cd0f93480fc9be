"""The keys of conf/model/sdas.yaml, their types, ranges and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from adbench.config.typed import Positive, ProperShare, Rate, Side, Within
from adbench.errors import UserError

_LEVELS = 8  # halving an image more often leaves nothing of the largest one


@dataclass(frozen=True, slots=True)
class NetworkKeys:
    """Shape of an ADM network: a preset and what differs from it; None leaves the preset's.

    Attributes:
        width: channels of the finest level, a multiple of 32.
        multipliers: channels of each level in units of ``width``.
        blocks: residual blocks a level.
        attention: downsampling factors at which blocks have attention.
        head: channels of an attention head.
        dropout: inside residual blocks.
    """

    preset: Literal["paper", "small", "mini", "tiny"] = "tiny"
    width: Annotated[int, Within(32, 65536)] | None = None
    multipliers: tuple[Annotated[int, Within(1, 64)], ...] | None = None
    blocks: Annotated[int, Within(1, 16)] | None = None
    attention: tuple[Annotated[int, Within(1, 128)], ...] | None = None
    head: Annotated[int, Within(1, 65536)] | None = None
    dropout: ProperShare | None = None

    def __post_init__(self) -> None:
        if self.multipliers is not None and not 1 <= len(self.multipliers) <= _LEVELS:
            raise UserError(
                f"network.multipliers={list(self.multipliers)}: 1 to {_LEVELS} levels are needed"
            )
        factors = [2**level for level in range(_LEVELS)]
        for factor in self.attention or ():
            if factor not in factors:
                raise UserError(
                    f"network.attention={list(self.attention or ())}: downsampling factors are "
                    "powers of two, not sides in pixels"
                )

    @property
    def given(self) -> dict[str, Any]:
        """What ``adm_shape`` reads: the preset and the keys that differ from it."""
        return {
            name: value for name in self.__slots__ if (value := getattr(self, name)) is not None
        }


@dataclass(frozen=True, slots=True)
class ScoreKeys:
    """How an image is scored by the model.

    Attributes:
        timesteps: noise levels (0..999) at which the denoising error is measured.
        window: side in pixels, odd, of the mean filter over the error at the model's size.
    """

    timesteps: tuple[Annotated[int, Within(0, 999)], ...] = (50, 150, 250)
    window: Annotated[int, Within(1, 1023)] = 9

    def __post_init__(self) -> None:
        if not 1 <= len(self.timesteps) <= 1000:
            raise UserError(f"model.score.timesteps={list(self.timesteps)}: 1 to 1000 levels")
        if self.window % 2 == 0:
            raise UserError(f"model.score.window={self.window}: an odd number is expected")


@dataclass(frozen=True, slots=True)
class SdasKeys:
    """conf/model/sdas.yaml, section ``model``.

    Attributes:
        network: shape of the noise predictor.
        size: side of the images that are modelled; None takes the working size.
        weights: checkpoint in OpenAI's format to start from; None starts from random values.
        guidance: train a classifier of noisy images beside the model.
        classifier: its shape.
        gamma: weight of the variational bound (Eq. S2).
        decay: of the moving average of weights.
        learning_rate: of Adam.
        clip: largest norm of a step's gradient.
        micro_batch: images whose gradients are computed at once; None takes the whole batch.
        sheet: images a strength on the contact sheet of a finished run; 0 draws none.
    """

    network: NetworkKeys = NetworkKeys(preset="paper")
    size: Side | None = None
    weights: str | None = None
    guidance: bool = False
    classifier: NetworkKeys = NetworkKeys(preset="small")
    gamma: Annotated[float, Within(0, 1e6)] = 0.001
    decay: ProperShare = 0.9999
    learning_rate: Rate = 1e-4
    clip: Positive = 1.0
    micro_batch: Annotated[int, Within(1, 4096)] | None = 5
    score: ScoreKeys = ScoreKeys()
    sheet: Annotated[int, Within(0, 1000)] = 4
