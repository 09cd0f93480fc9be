"""The keys of conf/model/sdas.yaml, their types, ranges and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from adbench.config.typed import Positive, ProperShare, Rate, Side, Within
from adbench.diffusion.settings import NetworkKeys
from adbench.errors import UserError

_PAPER, _SMALL = NetworkKeys(preset="paper"), NetworkKeys(preset="small")


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

    network: NetworkKeys = _PAPER
    size: Side | None = None
    weights: str | None = None
    guidance: bool = False
    classifier: NetworkKeys = _SMALL
    gamma: Annotated[float, Within(0, 1e6)] = 0.001
    decay: ProperShare = 0.9999
    learning_rate: Rate = 1e-4
    clip: Positive = 1.0
    micro_batch: Annotated[int, Within(1, 4096)] | None = 5
    score: ScoreKeys = ScoreKeys()
    sheet: Annotated[int, Within(0, 1000)] = 4
