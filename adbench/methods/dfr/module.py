"""Training of DFR: cache frozen features, choose the latent width, reconstruct."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.backbones.extractor import FeatureExtractor
from adbench.backbones.feature_cache import FeatureCache
from adbench.data.batch import Batch
from adbench.data.datamodule import DataModule
from adbench.errors import UserError, nearest
from adbench.methods.base import AnomalyModule, Requirements, seeded_generator
from adbench.methods.dfr.detector import DfrDetector
from adbench.methods.dfr.latent import latent_width
from adbench.synthesis.base import Synthesizer

_CACHE_KEYS = ("features", "dtype", "max_memory")
_PCA, _INIT = 0x9CA, 0x1417


class DfrModule(AnomalyModule):
    """DFR around its detector.

    Args:
        backbone: frozen extractor; all of its layers are concatenated.
        synthesis: not used; accepted because every module receives it.
        image_size: working (height, width), multiples of ``stride``.
        seed: fixes weights and draws.
        latent: d; None takes the principal components that explain ``variance``.
        variance: share of the variance in (0, 1).
        pca_images: training images, drawn by seed, whose vectors decide.
        patch, stride: side and step of the regions, pixels.
        sigma: blur of the final map in pixels, 0 for none.
        cache: ``features`` (bool), ``dtype``, ``max_memory`` (bytes, then a mapped file).
        learning_rate: of Adam.
    """

    detector: DfrDetector

    def __init__(
        self,
        *,
        backbone: FeatureExtractor | None,
        synthesis: Synthesizer | None,
        image_size: Sequence[int],
        seed: int,
        latent: int | None = None,
        variance: float = 0.9,
        pca_images: int = 10,
        patch: int = 4,
        stride: int = 4,
        sigma: float = 0.0,
        cache: Mapping[str, Any] | None = None,
        learning_rate: float = 1e-4,
    ) -> None:
        super().__init__()
        if backbone is None:
            raise UserError("model=dfr reconstructs features: set backbone=bundled")
        if not 0 < variance < 1:
            raise UserError(f"model.variance={variance}: a share in (0, 1) is expected")
        if stride < 1 or patch < stride or (patch - stride) % 2:
            raise UserError(
                f"model.patch={patch}, model.stride={stride}: patch must be stride plus an even "
                "number, e.g. patch=4 stride=4"
            )
        self.seed, self.latent, self.variance = seed, latent, variance
        self.pca_images, self.learning_rate = max(pca_images, 1), learning_rate
        self.cache: dict[str, Any] = {"features": True, "dtype": "float16", "max_memory": 4 << 30}
        for key, value in (cache or {}).items():
            if key not in _CACHE_KEYS:
                raise UserError(f"no key '{key}' in model.cache{nearest(key, _CACHE_KEYS)}")
            self.cache[key] = value
        first = latent or max(sum(backbone.channels) // 4, 1)
        self.detector = DfrDetector(backbone, image_size, first, patch, stride, sigma)
        self._features: FeatureCache | None = None

    def requirements(self, train_images: int) -> Requirements:
        detector = self.detector
        height, width = detector.image_size
        pairs = zip(detector.backbone.channels, detector.backbone.strides, strict=True)
        values = sum(c * height * width // s**2 for c, s in pairs) * train_images
        needed = values * (2 if self.cache["dtype"] == "float16" else 4)
        kept = self.cache["features"] and needed <= self.cache["max_memory"]
        return Requirements(
            size_multiple=detector.stride,
            min_size=32,
            memory_bytes=needed if kept else 0,
        )

    @torch.no_grad()
    def prepare(self, datamodule: DataModule) -> None:
        self._features = None
        if self.cache["features"]:
            self._features = FeatureCache(
                len(datamodule.train_samples),
                dtype=self.cache["dtype"],
                max_memory=self.cache["max_memory"],
            )
            images = (batch.image.to(self.device) for batch in datamodule.train_batches(32))
            self._features.fill(images, self.detector.native_features)
        if self.latent is None:
            self._set_latent(self._latent_width(datamodule))

    def _latent_width(self, datamodule: DataModule) -> int:
        count = len(datamodule.train_samples)
        generator = seeded_generator("cpu", self.seed, _PCA)
        index = torch.randperm(count, generator=generator)[: self.pca_images]
        x = self._regions(index, datamodule.train_images(index).to(self.device))
        return latent_width(x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]), self.variance)

    def _set_latent(self, latent: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed ^ _INIT)
            self.detector.set_latent(latent)
        self.detector.autoencoder.to(self.device)

    def _regions(self, index: Tensor, image: Tensor) -> Tensor:
        if self._features is None:
            return self.detector.regions(self.detector.native_features(image)).float()
        return self.detector.regions(self._features(index, self.device))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            self.detector.autoencoder.parameters(),
            lr=self.learning_rate,
            fused=self.device.type == "cuda",
        )

    def training_step(
        self,
        batch: Batch,
        batch_idx: int,
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            x = self._regions(batch.index, batch.image)
        made = self.detector.autoencoder(x)
        loss = F.mse_loss(made.float(), x)
        return {"loss": loss}
