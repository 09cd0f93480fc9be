"""Inference: noise, walk, leave the walk at the image's own step, decode, compare features."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from adbench.backbones.extractor import FeatureExtractor
from adbench.backbones.maps import working_picture
from adbench.config.typed import from_mapping
from adbench.diffusion.latent.base import LatentDiffusion, built_diffusion
from adbench.diffusion.latent.ddim import Ddim
from adbench.errors import UserError
from adbench.methods.base import Detector, Prediction
from adbench.methods.glad.adaptive_steps import (
    AdaptiveSteps,
    Cost,
    Decision,
    Difference,
    Rules,
    fixed_steps,
)
from adbench.methods.glad.dino import fit_backbone
from adbench.methods.glad.maps import enlarged, pixel_difference, smoothed, top_mean
from adbench.methods.glad.noise import drawn_noise
from adbench.methods.glad.object_mask import object_masks
from adbench.methods.glad.pictures import drawn_sheet
from adbench.methods.glad.residuals import WhitenedResiduals
from adbench.methods.glad.settings import GladKeys
from adbench.methods.glad.tokens import distance_map, summed_maps


@dataclass(frozen=True, slots=True)
class Settled:
    """Constants that the keys leave open and held-out normals settle.

    Attributes:
        delta: threshold of the adaptive step; None: no image ever crosses it.
        restart: steps that its start lies above it.
        start: T of fixed steps.
        top: pixels of the score.
        pixel: ratio of a feature map's maximum to a pixel map's.
        gate: latent difference below which no defect was ever seen.
        tuned: whether scores come from fine-tuned features.
    """

    delta: float | None = None
    restart: int = 0
    start: int = 500
    top: int = 250
    pixel: float = 0.0
    gate: float = 0.0
    tuned: bool = False

    @classmethod
    def of(cls, keys: GladKeys) -> Settled:
        """Return what the keys fix; the rest as it stands before the calibration."""
        fixed: dict[str, Any] = {
            "delta": keys.ads.delta,
            "restart": keys.ads.restart,
            "start": keys.start,
            "top": keys.score.top,
        }
        return cls(**{name: value for name, value in fixed.items() if value != "auto"})


@dataclass(slots=True)
class Reconstruction:
    """Of images at the working size.

    Attributes:
        image: [B, 3, H, W] in 0..1.
        decision, cost: of the adaptive steps; None otherwise.
    """

    image: Tensor
    decision: Decision | None = None
    cost: Cost | None = None


class GladDetector(Detector):
    """Latent diffusion, comparison features, adaptive steps.

    Args:
        backbone: config of the FeatureExtractor, or one that is built.
        diffusion: config of the LatentDiffusion, or one that is built.
        image_size: working (height, width).
        keys: conf/model/glad.yaml.
        seed: of the images' noise.
        settled: what the calibration found.
    """

    centres: Tensor

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        diffusion: Mapping[str, Any] | LatentDiffusion,
        image_size: Sequence[int],
        keys: Mapping[str, Any] | None = None,
        seed: int = 0,
        settled: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        built: Any = (
            backbone if isinstance(backbone, nn.Module) else FeatureExtractor(**dict(backbone))
        )
        self.backbone = built
        self.diffusion = (
            diffusion if isinstance(diffusion, LatentDiffusion) else built_diffusion(diffusion)
        )
        self.image_size = (int(image_size[0]), int(image_size[1]))
        fit_backbone(built, self.image_size)
        self.keys = from_mapping(GladKeys, keys or {}, "model")
        _check_layer(self.keys.ads.layer, len(built.channels))
        self.seed = seed
        self.settled = Settled(**settled) if settled else Settled.of(self.keys)
        count = len(self.diffusion.classes)
        self.register_buffer("centres", torch.zeros(count, sum(built.channels)))
        whitened = self.keys.score.distance == "whitened"
        self.residuals = WhitenedResiduals(built.channels) if whitened else None
        # What scores; adaptive steps and the telling of categories keep the untouched backbone.
        self.scorer = FeatureExtractor(**built.config) if self.settled.tuned else None
        if self.scorer is not None:
            fit_backbone(self.scorer, self.image_size)
        self.requires_grad_(False)

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """Plain keyword arguments that rebuild the architecture, as settled so far."""
        return {
            "backbone": self.backbone.config,
            "diffusion": self.diffusion.config,
            "image_size": list(self.image_size),
            "keys": _plain(asdict(self.keys)),
            "seed": self.seed,
            "settled": asdict(self.settled),
        }

    def settle(self, **values: Any) -> None:
        """Replace constants."""
        self.settled = replace(self.settled, **values)

    def set_classes(self, centres: Tensor) -> None:
        """Take the mean feature [C, D] of each category, by which images are told apart."""
        self.centres = centres.to(self.centres.device)

    # From image to reconstruction

    def forward(self, image: Tensor) -> Prediction:
        working = working_picture(image, self.image_size)
        scores, maps = [], []
        for some in working.split(self.keys.micro_batch):
            found = self.anomaly_map(some, self.reconstructed(some).image)
            scores.append(top_mean(found, self.settled.top))
            maps.append(_resized(found, image.shape[-2:]))
        return Prediction(torch.cat(scores).float(), torch.cat(maps).float())

    @torch.no_grad()
    def reconstructed(self, image: Tensor) -> Reconstruction:
        """Return the normal counterpart of images [B, 3, H, W] at the working size."""
        with self._precision(image):
            latent = self.diffusion.encode(image).float()
        decision = cost = None
        if self.keys.reconstruct == "adaptive":
            steps = self.adaptive_steps(image)
            latent, decision = steps(latent, self.noise(image), self._begin(image, latent))
            cost = steps.cost
        elif self.keys.reconstruct == "fixed":
            noise, begin = self.noise(image), self._begin(image, latent)
            predict = self._predictor(image)
            latent = fixed_steps(self.ddim, predict, latent, noise, begin, self.keys.end)
        return Reconstruction(self._decoded(latent), decision, cost)

    @torch.no_grad()
    def plainly_reconstructed(self, image: Tensor, start: int, steps: int) -> Tensor:
        """Return images [B, 3, H, W] made anew from level ``start`` in ``steps`` equal steps."""
        ddim = Ddim(self.diffusion.schedule, start, steps)
        with self._precision(image):
            latent = self.diffusion.encode(image).float()
        noise, predict = self.noise(image), self._predictor(image)
        return self._decoded(fixed_steps(ddim, predict, latent, noise, end=self.keys.end))

    def _decoded(self, latent: Tensor) -> Tensor:
        with self._precision(latent):
            return self.diffusion.decode(latent).float().clamp(0, 1)

    @property
    def ddim(self) -> Ddim:
        """The levels of the walk."""
        return Ddim(self.diffusion.schedule, self.settled.start, self.steps)

    @property
    def steps(self) -> int:
        """How many; no more than there are levels."""
        return min(self.keys.steps, self.settled.start)

    def adaptive_steps(self, image: Tensor) -> AdaptiveSteps:
        """Return the adaptive steps for images [B, 3, H, W] at the working size."""
        keys = self.keys
        rules = Rules(
            delta=math.inf if self.settled.delta is None else self.settled.delta,
            stop=keys.stop,
            search=keys.ads.search,
            restart=self.settled.restart,
            saff=keys.saff,
            second_pass=keys.ads.second_pass,
            gate=self.settled.gate if keys.ads.gate else 0.0,
            end=keys.end,
        )
        return AdaptiveSteps(self.ddim, self._predictor(image), self.compared, rules)

    def noise(self, image: Tensor) -> Tensor:
        """Return the noise of images [B, 3, H, W] at the working size, shaped as latents."""
        sides = [side // self.diffusion.factor for side in image.shape[-2:]]
        shape = (self.diffusion.channels, *sides)
        return drawn_noise(image, shape, self.seed, self.keys.noise)

    def _begin(self, image: Tensor, latent: Tensor) -> Tensor | None:
        if self.keys.begin == "first":
            return None
        level = self.settled.start - (self.keys.begin == "start_minus_1")
        return self.ddim.noised(latent, level, self.noise(image))

    def _predictor(self, image: Tensor) -> Any:
        """Return the noise estimator, the categories of ``image`` recognised once."""
        labels = self.labels(image)

        def predict(latent: Tensor, time: Tensor, rows: Tensor) -> Tensor:
            with self._precision(latent):
                return self.diffusion.noise(latent, time, labels[rows]).float()

        return predict

    def labels(self, image: Tensor) -> Tensor:
        """Return [B]: the category whose mean feature is nearest; 0 where there is one only."""
        if len(self.centres) == 1:
            return torch.zeros(len(image), dtype=torch.int64)
        return torch.cdist(self.described(image), self.centres).argmin(1).cpu()

    def described(self, image: Tensor) -> Tensor:
        """Return [B, D]: the backbone's features, averaged over each map."""
        return torch.cat([maps.mean((2, 3)) for maps in self.backbone(image)], 1)

    def compared(self, test: Tensor, walk: Tensor) -> Difference:
        """Return S [B] and A [B, 1, h, w] of two clean latents, decoded."""
        with self._precision(test):
            images = self.diffusion.decode(torch.cat((test, walk))).float()
        features = self._compared_features(images)
        first, second = features.chunk(2)
        found = distance_map(first, second, chunk=self.keys.score.chunk)
        score = top_mean(found, self.keys.ads.top)
        return Difference(score, _resized(found, test.shape[-2:]))

    def _compared_features(self, images: Tensor) -> Tensor:
        if not self.keys.ads.normalise:  # the network then sees -1..1
            images = (images * 2 - 1) * self.backbone.std + self.backbone.mean
        found: Tensor = self.backbone(images)[self.keys.ads.layer]
        return found.float()

    # From reconstruction to map

    def anomaly_map(self, image: Tensor, made: Tensor) -> Tensor:
        """Return maps [B, 1, H, W] of images and their reconstructions at the working size."""
        keys, shown = self.keys.score, image
        if keys.reference == "round_trip":
            image = self.diffusion.decode(self.diffusion.encode(image)).float().clamp(0, 1)
        layers = self.feature_maps(image, made)
        total = sum(smoothed(maps, self.image_size, keys.sigma) for maps in layers)
        assert isinstance(total, Tensor)
        if keys.pixel > 0:
            total = total + self._pixel_term(image, made, layers)
        return total if keys.object == "none" else total * object_masks(shown, keys.object)

    def feature_maps(self, image: Tensor, made: Tensor) -> list[Tensor]:
        """Return distance maps of the layers, those of one size summed."""
        keys = self.keys.score
        first, second = self.feature_pairs(image, made)
        if self.residuals is not None:
            found: list[Tensor] = self.residuals(first, second)
            return found
        return summed_maps(first, second, keys.direction, keys.chunk)

    def feature_pairs(self, image: Tensor, made: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the layers' maps [B, C, h, w] of images and of their reconstructions."""
        scorer = self.backbone if self.scorer is None else self.scorer
        features = [maps.float() for maps in scorer(torch.cat((image, made)))]
        halves = [maps.chunk(2) for maps in features]
        return [half[0] for half in halves], [half[1] for half in halves]

    def _pixel_term(self, image: Tensor, made: Tensor, layers: list[Tensor]) -> Tensor:
        pixel = pixel_difference(image, made, self.backbone.std)
        ratio = self.settled.pixel
        if self.keys.score.pixel_scale == "batch":  # as the code: a score depends on its batch
            ratio = pixel_ratio(layers, pixel, self.image_size).item()
        return (
            self.keys.score.pixel * ratio * smoothed(pixel, self.image_size, self.keys.score.sigma)
        )

    def named_maps(self, image: Tensor) -> dict[str, Tensor]:
        """Return the reconstruction's brightness, its difference and the fusion's mask."""
        working = working_picture(image, self.image_size)
        found = self.reconstructed(working)
        maps = {
            "reconstruction": found.image.mean(1, keepdim=True),
            "difference": (working - found.image).abs().mean(1, keepdim=True),
        }
        if found.decision is not None:
            maps["fusion"] = found.decision.mask
            times = torch.tensor(self.ddim.times)[found.decision.index]
            level = torch.where(found.decision.crossed, times, 0).to(working)
            maps["step"] = level.view(-1, 1, 1, 1).expand(-1, 1, *self.image_size)
        return {name: _resized(value, image.shape[-2:]) for name, value in maps.items()}

    def sheet(self, image: Tensor, titles: Sequence[str]) -> NDArray[np.uint8]:
        """Return input, reconstruction with the chosen step, difference, fusion and map."""
        return drawn_sheet(self, working_picture(image, self.image_size), titles)

    @contextlib.contextmanager
    def _precision(self, like: Tensor) -> Iterator[None]:
        half = self.keys.precision == "bfloat16"
        with torch.autocast(like.device.type, torch.bfloat16, enabled=half):
            yield


def pixel_ratio(layers: Sequence[Tensor], pixel: Tensor, size: tuple[int, int]) -> Tensor:
    """Return largest value of the summed feature maps over that of the pixel maps."""
    summed = torch.stack([enlarged(maps, size) for maps in layers]).sum(0)
    return summed.amax() / pixel.amax().clamp_min(1e-12)


def _check_layer(layer: int, count: int) -> None:
    if not -count <= layer < count:
        raise UserError(
            f"model.ads.layer={layer}: the backbone reads {count} layers, -{count}..{count - 1}"
        )


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    if x.shape[-2:] == torch.Size(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
