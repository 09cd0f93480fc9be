"""Training of DFR: cache frozen features, choose the latent width, reconstruct."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.backbones.extractor import FeatureExtractor
from adbench.backbones.feature_cache import FeatureCache
from adbench.config.typed import from_mapping
from adbench.data.batch import Batch
from adbench.data.datamodule import DataModule
from adbench.errors import UserError
from adbench.methods import ranks
from adbench.methods.base import AnomalyModule, Requirements, seeded_generator
from adbench.methods.dfr.autoencoder import hidden_widths
from adbench.methods.dfr.detector import DfrDetector
from adbench.methods.dfr.latent import latent_width
from adbench.methods.dfr.settings import DfrKeys
from adbench.methods.memory import training_bytes
from adbench.synthesis.base import Synthesizer

_PCA, _INIT = 0x9CA, 0x1417
_POSITIONS = 0


class DfrModule(AnomalyModule):
    """DFR around its detector.

    Args:
        backbone: frozen extractor; all of its layers are concatenated.
        synthesis: not used; accepted because every module receives it.
        image_size: working (height, width), multiples of ``stride``.
        seed: fixes weights and draws.
        keys: those of ``DfrKeys``.
    """

    detector: DfrDetector

    def __init__(
        self,
        *,
        backbone: FeatureExtractor | None,
        synthesis: Synthesizer | None,
        image_size: Sequence[int],
        seed: int,
        **keys: Any,
    ) -> None:
        super().__init__()
        own = from_mapping(DfrKeys, keys, "model")
        if backbone is None:
            raise UserError("model=dfr reconstructs features: set backbone=bundled")
        self.seed, self.latent, self.variance = seed, own.latent, own.variance
        self.pca_images, self.learning_rate = own.pca_images, own.learning_rate
        self.cache, self.positions = own.cache, own.positions
        first = own.latent or max(sum(backbone.channels) // 4, 1)
        self.detector = DfrDetector(backbone, image_size, first, own.patch, own.stride, own.sigma)
        self._features: FeatureCache | None = None

    def requirements(self, train_images: int) -> Requirements:
        detector = self.detector
        height, width = detector.image_size
        pairs = zip(detector.backbone.channels, detector.backbone.strides, strict=True)
        values = sum(c * height * width // s**2 for c, s in pairs) * train_images
        needed = values * (2 if self.cache.dtype == "float16" else 4)
        kept = self.cache.features and needed <= self.cache.max_memory
        return Requirements(
            size_multiple=detector.stride,
            min_size=32,
            ddp=True,
            memory_bytes=(needed if kept else 0)
            + training_bytes(detector.autoencoder)
            + self._step_bytes,
        )

    @property
    def _step_bytes(self) -> int:
        """Bytes of a step's maps for a batch of one image: each layer's, normalised, activated."""
        height, width = (side // self.detector.stride for side in self.detector.image_size)
        widths = hidden_widths(self.detector.channels, self.detector.latent)
        return 3 * 4 * height * width * sum(widths)

    @torch.no_grad()
    def prepare(self, datamodule: DataModule) -> None:
        self._features = None
        if self.cache.features:
            self._features = FeatureCache(
                len(datamodule.train_samples),
                dtype=self.cache.dtype,
                max_memory=self.cache.max_memory,
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
            x = self._drawn(self._regions(batch.index, batch.image), batch_idx)
        made = self.detector.autoencoder(x)
        loss = F.mse_loss(made.float(), x)
        return {"loss": loss}

    def _drawn(self, regions: Tensor, batch_idx: int) -> Tensor:
        """Return [B, C, n, 1] of regions [B, C, h, w]: for each image others, without repetition.

        The autoencoder knows no neighbours, so that a step on some is a step on a smaller sample.
        """
        images, channels, count = len(regions), regions.shape[1], regions[0, 0].numel()
        if self.positions is None or self.positions >= count:
            return regions
        generator = self.common_generator(batch_idx, _POSITIONS)
        shape = (images * ranks.size(), count)
        order = torch.rand(shape, generator=generator, device=regions.device).argsort(1)
        place = ranks.own_rows(order[:, : self.positions])
        place = place[:, None].expand(-1, channels, -1)
        return regions.flatten(2).gather(2, place)[..., None]
