"""The trained diffusion model, and the anomaly map that its denoising error gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.backbones.maps import working_picture
from adbench.config.typed import from_mapping
from adbench.diffusion.fitting import resized
from adbench.diffusion.model import SdasModel
from adbench.diffusion.schedule import noised
from adbench.methods.base import Detector, Prediction, seeded_generator
from adbench.methods.memory import built, refuse_beyond
from adbench.methods.records import plain_values
from adbench.methods.sdas.settings import ScoreKeys

_NOISE = 0x5DA5
NETWORK_KEYS = "model.network.width, model.network.multipliers or model.network.preset"


class SdasDetector(Detector):
    """A diffusion model of normal images.

    The paper only draws images with it. As a detector it noises an image with fixed noise,
    denoises in one step and maps the squared error of the noise estimate: large where the
    image is unlike the normal ones. ``model`` is what the pool is drawn from.

    Args:
        model: keyword arguments of SdasModel.
        score: keys of ScoreKeys.
        seed: fixes the noise, the same for every image.
        image_size: (height, width) of the pictures that the model was trained on before they
            were brought to its own size; full pictures take the same way.
    """

    noise: Tensor

    def __init__(
        self,
        model: Mapping[str, Any],
        score: Mapping[str, Any] | None = None,
        seed: int = 0,
        *,
        image_size: Sequence[int],
    ) -> None:
        super().__init__()
        self.model = built(lambda: SdasModel(**model), "the diffusion model", NETWORK_KEYS)
        self.score_keys = from_mapping(ScoreKeys, score or {}, "model.score")
        self.seed = seed
        self.image_size = (int(image_size[0]), int(image_size[1]))
        count = len(self.score_keys.timesteps)
        pixels = self.model.size[0] * self.model.size[1]
        refuse_beyond(12 * count * pixels, "the noise of all levels", "model.score.timesteps")
        drawn = seeded_generator("cpu", seed, _NOISE)
        noise = torch.randn((count, 3, *self.model.size), generator=drawn)
        self.register_buffer("noise", noise)

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """Plain keyword arguments that rebuild the architecture, as trained so far."""
        return {
            "model": self.model.config,
            "score": plain_values(self.score_keys),
            "seed": self.seed,
            "image_size": list(self.image_size),
        }

    def forward(self, image: Tensor) -> Prediction:
        error = self.denoising_error(image)
        side = self.score_keys.window
        smooth = F.avg_pool2d(error, side, 1, side // 2, count_include_pad=False)
        full = F.interpolate(smooth, image.shape[-2:], mode="bilinear", align_corners=False)
        return Prediction(smooth.flatten(1).amax(1), full)

    def denoising_error(self, image: Tensor) -> Tensor:
        """Return [B, 1, h, w] at the model's size: mean squared error of the noise estimate.

        The mean runs over colours and the levels of ``score.timesteps``; with several
        categories the mean of their embeddings stands for the unknown one.
        """
        working = working_picture(image, self.image_size)
        x0 = resized(working, self.model.size) * 2 - 1
        total = torch.zeros_like(x0[:, :1])
        for noise, level in zip(self.noise, self.score_keys.timesteps, strict=True):
            xt = noised(self.model.schedule, x0, level, noise)
            timestep = torch.full((len(x0),), level, device=x0.device)
            eps = self.model.network(xt, timestep, None)[:, :3].float()
            total = total + (eps - noise).square().mean(1, keepdim=True)
        return total / len(self.score_keys.timesteps)
