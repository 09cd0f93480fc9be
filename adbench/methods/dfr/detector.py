"""Inference: regional features, their reconstruction, squared error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.backbones.extractor import FeatureExtractor
from adbench.backbones.maps import gaussian_blur, working_picture
from adbench.methods.base import Detector, Prediction
from adbench.methods.dfr.autoencoder import PointwiseAutoencoder
from adbench.methods.dfr.regions import regional_features, upsampled
from adbench.methods.memory import built


class DfrDetector(Detector):
    """Backbone, regional features and their autoencoder.

    Args:
        backbone: config of the FeatureExtractor, or one that is built.
        image_size: working (height, width), multiples of ``stride``.
        latent: d, width of the code.
        patch, stride: side and step of the regions, pixels.
        sigma: blur of the final map in pixels, 0 for none.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        image_size: Sequence[int],
        latent: int,
        patch: int = 4,
        stride: int = 4,
        sigma: float = 0.0,
    ) -> None:
        super().__init__()
        extractor: Any = (
            backbone if isinstance(backbone, nn.Module) else FeatureExtractor(**dict(backbone))
        )
        self.backbone = extractor
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.patch, self.stride, self.sigma = patch, stride, sigma
        self.config = {
            "backbone": extractor.config,
            "image_size": list(self.image_size),
            "latent": latent,
            "patch": patch,
            "stride": stride,
            "sigma": sigma,
        }
        self.set_latent(latent)

    @property
    def channels(self) -> int:
        return sum(self.backbone.channels)

    def set_latent(self, latent: int) -> None:
        """Start over with an untrained autoencoder of another width."""
        self.latent = latent
        self.autoencoder = built(
            lambda: PointwiseAutoencoder(self.channels, latent), "the autoencoder", "model.latent"
        )
        self.config["latent"] = latent

    def native_features(self, image: Tensor) -> list[Tensor]:
        """Return the layers' maps of images at the working size."""
        with torch.no_grad():
            found: list[Tensor] = self.backbone(image)
        return found

    def regions(self, native: Sequence[Tensor]) -> Tensor:
        """Return regional features [B, C, H / stride, W / stride]."""
        return regional_features(native, self.image_size, self.patch, self.stride)

    def forward(self, image: Tensor) -> Prediction:
        size = (int(image.shape[-2]), int(image.shape[-1]))
        working = working_picture(image, self.image_size)
        x = self.regions(self.native_features(working))
        error = (self.autoencoder(x) - x).square().mean(1, keepdim=True)
        anomaly_map = upsampled(error, self.image_size)
        if self.sigma > 0:
            anomaly_map = gaussian_blur(anomaly_map, self.sigma)
        score = anomaly_map.amax((1, 2, 3))
        if size != self.image_size:
            anomaly_map = F.interpolate(anomaly_map, size=size, mode="bilinear")
        return Prediction(score, anomaly_map)
