"""Training of ULSAD: cache what is frozen, train psi and phi together, take the quantiles."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adbench.backbones.extractor import FeatureExtractor
from adbench.backbones.feature_cache import FeatureCache
from adbench.config.typed import from_mapping
from adbench.data.batch import Batch
from adbench.data.datamodule import DataModule
from adbench.errors import UserError
from adbench.methods import ranks
from adbench.methods.base import AnomalyModule, Requirements, seeded_generator
from adbench.methods.memory import training_bytes
from adbench.methods.records import plain_values
from adbench.methods.ulsad.attention import attended, attention_peak
from adbench.methods.ulsad.autoencoder import MULTIPLE, SMALLEST
from adbench.methods.ulsad.detector import UlsadDetector
from adbench.methods.ulsad.losses import (
    attention_loss,
    direct_loss,
    local_global_loss,
    local_loss,
    total,
)
from adbench.methods.ulsad.maps import quantiles
from adbench.methods.ulsad.pictures import write_attention
from adbench.methods.ulsad.settings import LossKeys, UlsadKeys
from adbench.synthesis.base import Synthesizer

SMALLEST_BATCH = 4  # the bottleneck's batch statistics rest on one value per image
_CHUNK = 32
_FILL = 0xF111


class UlsadModule(AnomalyModule):
    """ULSAD around its detector.

    Args:
        backbone: frozen extractor whose first layer has stride 8.
        synthesis: not used; accepted because every module receives it.
        image_size: working (height, width), multiples of 32 from 256.
        seed: fixes weights and draws.
        keys: those of ``UlsadKeys``.
    """

    detector: UlsadDetector

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
        own = from_mapping(UlsadKeys, keys, "model")
        if backbone is None:
            raise UserError("model=ulsad reconstructs features: set backbone=bundled")
        self.seed, self.kernel = seed, own.attention_kernel
        self.learning_rate, self.weight_decay = own.learning_rate, own.weight_decay
        self.cache_keys = own.cache
        sections = {n: plain_values(getattr(own, n)) for n in ("frn", "autoencoder", "loss", "map")}
        self.detector = UlsadDetector(backbone, image_size, own.channels, **sections)
        if own.channels_last:
            for part in (self.detector.frn, self.detector.autoencoder):
                if part is not None:
                    part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._features: FeatureCache | None = None
        self._attention: FeatureCache | None = None
        self._data: DataModule | None = None

    @property
    def loss_keys(self) -> LossKeys:
        return self.detector.loss

    # Before the fit

    def requirements(self, train_images: int) -> Requirements:
        return Requirements(
            size_multiple=MULTIPLE,
            min_size=SMALLEST,
            min_batch=SMALLEST_BATCH,
            uses_held_out=True,
            ddp=True,
            memory_bytes=self._cache_bytes(train_images)
            + training_bytes(self.detector.frn, self.detector.autoencoder)
            + self._step_bytes,
        )

    @property
    def _step_bytes(self) -> int:
        """Bytes of a step for a batch of one image: maps of both networks, attention weights."""
        height, width = self.detector.image_size
        positions = height * width // 64
        maps = 8 * self.detector.pooling.channels * positions
        attended = self.loss_keys.global_term == "attention" and self.kernel == "full"
        return 4 * (maps + (3 * positions**2 if attended else 0))

    def _cache_bytes(self, images: int) -> int:
        keys, pooling = self.cache_keys, self.detector.pooling
        if not keys.features:
            return 0
        height, width = self.detector.image_size
        size = 2 if keys.dtype == "float16" else 4
        grid = height * width // 64
        strides = self.detector.backbone.strides
        values = pooling.channels * grid
        if pooling.aligned:
            pairs = zip(pooling.parts, strides, strict=True)
            values = sum(part * height * width // stride**2 for part, stride in pairs)
        caches = [values]
        if keys.attention and self.loss_keys.global_term == "attention":
            caches.append(pooling.channels * grid)
        # What exceeds the limit is mapped to a file.
        needed = [images * count * size for count in caches]
        return sum(count for count in needed if count <= keys.max_memory)

    @torch.no_grad()
    def prepare(self, datamodule: DataModule) -> None:
        """Run the backbone once over the training images; take statistics and A from it."""
        self._data = datamodule
        self._features = self._attention = None
        if self.cache_keys.features:
            self._features = self._cache(datamodule)
            images = (batch.image.to(self.device) for batch in datamodule.train_batches(_CHUNK))
            self._features.fill(images, self.detector.native_features)
        self.detector.pooling.set_statistics(self._pooled(datamodule))
        if self.cache_keys.attention and self.loss_keys.global_term == "attention":
            self._attention = self._cache(datamodule)
            chunks = torch.arange(len(datamodule.train_samples)).split(8)
            self._attention.fill(chunks, self._self_attention)

    def _cache(self, datamodule: DataModule) -> FeatureCache:
        keys = self.cache_keys
        count = len(datamodule.train_samples)
        return FeatureCache(count, dtype=keys.dtype, max_memory=keys.max_memory)

    def _pooled(self, datamodule: DataModule) -> Iterator[Tensor]:
        if self._features is None:
            for batch in datamodule.train_batches(_CHUNK):
                native = self.detector.native_features(batch.image.to(self.device))
                yield self.detector.pooling.joined(native)
            return
        for index in torch.arange(len(self._features)).split(_CHUNK):
            yield self.detector.pooling.joined(self._features(index, self.device))

    def _self_attention(self, index: Tensor) -> list[Tensor]:
        if self._features is None:
            raise RuntimeError("the attention cache is filled from the feature cache")
        u = self.detector.pooling(self._features(index, self.device))
        return [attended(u, u, self.kernel)]

    # The fit

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [p for p in self.detector.parameters() if p.requires_grad]
        return torch.optim.Adam(
            trained,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            fused=self.device.type == "cuda",
        )

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        index, image = self._filled(batch, batch_idx)
        u = self._standardised(index, image)
        parts, peak = self._losses(index, image, u)
        logged = {name: value.detach() for name, value in parts.items()}
        return {"loss": total(parts), **logged, **peak}

    def _filled(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Return index and image; a last batch below four images borrows from the others."""
        missing = math.ceil(SMALLEST_BATCH / ranks.size()) - len(batch)
        if missing <= 0 or self._data is None:
            return batch.index, batch.image
        keys = (self.current_epoch, batch_idx, _FILL, *ranks.own_key())
        generator = seeded_generator("cpu", self.seed, *keys)
        count = len(self._data.train_samples)
        extra = torch.randint(count, (missing,), generator=generator)
        image = self._data.train_images(extra).to(batch.image)
        return torch.cat([batch.index, extra.to(batch.index)]), torch.cat([batch.image, image])

    def _standardised(self, index: Tensor, image: Tensor) -> Tensor:
        if self._features is None:
            return self.detector.features(image).float()
        found: Tensor = self.detector.pooling(self._features(index, self.device))
        return found

    def _losses(
        self, index: Tensor, image: Tensor, u: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        keys, detector = self.loss_keys, self.detector
        local, second = detector.frn(u) if keys.uses_frn else (u, u)
        encoded = None if detector.autoencoder is None else detector.autoencoder(image).float()
        parts: dict[str, Tensor] = {}
        peak: dict[str, Tensor] = {}
        with torch.autocast(image.device.type, enabled=False):
            if keys.local:
                parts["local"] = local_loss(local.float(), u, keys)
            if encoded is not None:
                parts["global"], peak = self._global_loss(index, encoded, u)
                if keys.local_global:
                    parts["local_global"] = local_global_loss(second.float(), encoded, keys)
        return parts, peak

    def _global_loss(
        self, index: Tensor, encoded: Tensor, u: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.loss_keys.global_term == "direct":
            return direct_loss(encoded, u, self.loss_keys), {}
        target = self._target(index, u)
        loss = attention_loss(encoded, u, target, self.loss_keys, self.kernel)
        with torch.no_grad():
            return loss, {"attention_peak": attention_peak(encoded, u)}

    @torch.no_grad()
    def _target(self, index: Tensor, u: Tensor) -> Tensor:
        """Return A: the features' attention over themselves, constant over training."""
        if self._attention is not None:
            return self._attention(index, self.device)[0]
        return attended(u, u, self.kernel)

    # After the fit

    def refresh(self) -> None:
        if self._data is not None:
            self._calibrate(self._data)

    def finish(self, datamodule: DataModule) -> None:
        self._calibrate(datamodule)

    def artefacts(self, folder: Path) -> None:
        """Draw whom positions of the first training image attend to."""
        if self._data is not None:
            image = self._data.train_images(torch.tensor([0])).to(self.device)
            write_attention(self.detector, image, folder)

    @torch.no_grad()
    def _calibrate(self, datamodule: DataModule) -> None:
        """Take both quantile pairs from all pixels of the held-out normals (never test data)."""
        batches = datamodule.val_batches if datamodule.val_samples else datamodule.train_batches
        if not datamodule.val_samples:
            warnings.warn(
                "no held-out normals: quantiles come from training images and are too small; "
                "set dataset.hold_out=0.1",
                stacklevel=2,
            )
        training = self.detector.training
        self.detector.eval()
        found: dict[str, list[np.ndarray]] = {}
        for batch in batches(8):
            for name, maps in self.detector.raw_maps(batch.image.to(self.device)).items():
                found.setdefault(name, []).append(maps.float().cpu().numpy())
        keys = self.detector.map
        self.detector.calibrate(
            {
                name: quantiles(np.concatenate(maps), keys.alpha, keys.beta)
                for name, maps in found.items()
            }
        )
        self.detector.train(training)
