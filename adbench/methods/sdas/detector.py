"""The trained diffusion model, and the anomaly map that its denoising error gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.diffusion.fitting import resized
from adbench.diffusion.model import SdasModel
from adbench.diffusion.schedule import noised
from adbench.errors import UserError, nearest
from adbench.methods.base import Detector, Prediction, seeded_generator

_NOISE = 0x5DA5


@dataclass(frozen=True, slots=True)
class ScoreKeys:
    """How an image is scored by the model.

    Attributes:
        timesteps: noise levels (0..999) at which the denoising error is measured.
        smoothing: side in pixels, odd, of the mean filter over the error at the model's size.
    """

    timesteps: tuple[int, ...] = (50, 150, 250)
    smoothing: int = 9

    def __post_init__(self) -> None:
        if not self.timesteps or not all(0 <= t < 1000 for t in self.timesteps):
            raise UserError(f"model.score.timesteps={self.timesteps}: levels in 0..999 expected")
        if self.smoothing < 1 or self.smoothing % 2 == 0:
            raise UserError(f"model.score.smoothing={self.smoothing}: an odd number is expected")


class SdasDetector(Detector):
    """A diffusion model of normal images.

    The paper only draws images with it. As a detector it noises an image with fixed noise,
    denoises in one step and maps the squared error of the noise estimate: large where the
    image is unlike the normal ones. ``model`` is what the pool is drawn from.

    Args:
        model: keyword arguments of SdasModel.
        score: keys of ScoreKeys.
        seed: fixes the noise, the same for every image.
    """

    noise: Tensor

    def __init__(
        self, model: Mapping[str, Any], score: Mapping[str, Any] | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.model = SdasModel(**model)
        self.score_keys = score_keys(score or {})
        self.seed = seed
        count = len(self.score_keys.timesteps)
        drawn = seeded_generator("cpu", seed, _NOISE)
        noise = torch.randn((count, 3, *self.model.size), generator=drawn)
        self.register_buffer("noise", noise)

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """Plain keyword arguments that rebuild the architecture, as trained so far."""
        score = {k: _listed(v) for k, v in asdict(self.score_keys).items()}
        return {"model": self.model.config, "score": score, "seed": self.seed}

    def forward(self, image: Tensor) -> Prediction:
        error = self.denoising_error(image)
        side = self.score_keys.smoothing
        smooth = F.avg_pool2d(error, side, 1, side // 2, count_include_pad=False)
        full = F.interpolate(smooth, image.shape[-2:], mode="bilinear", align_corners=False)
        return Prediction(smooth.flatten(1).amax(1), full)

    def denoising_error(self, image: Tensor) -> Tensor:
        """Return [B, 1, h, w] at the model's size: mean squared error of the noise estimate.

        The mean runs over colours and the levels of ``score.timesteps``; with several
        categories the mean of their embeddings stands for the unknown one.
        """
        x0 = resized(image, self.model.size) * 2 - 1
        total = torch.zeros_like(x0[:, :1])
        for noise, level in zip(self.noise, self.score_keys.timesteps, strict=True):
            xt = noised(self.model.schedule, x0, level, noise)
            timestep = torch.full((len(x0),), level, device=x0.device)
            eps = self.model.network(xt, timestep, None)[:, :3].float()
            total = total + (eps - noise).square().mean(1, keepdim=True)
        return total / len(self.score_keys.timesteps)


def score_keys(values: Mapping[str, Any]) -> ScoreKeys:
    """Return the section ``score`` of conf/model/sdas.yaml.

    Raises:
        UserError: an unknown key or an impossible value.
    """
    known = [f.name for f in fields(ScoreKeys)]
    for name in values:
        if name not in known:
            raise UserError(f"no key '{name}' in model.score{nearest(name, known)}")
    plain: dict[str, Any] = {
        k: tuple(v) if isinstance(v, Sequence) else v for k, v in values.items()
    }
    return ScoreKeys(**plain)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
