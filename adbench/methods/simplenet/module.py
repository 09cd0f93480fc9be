"""Training of SimpleNet: normal features against the same with Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adbench.backbones.extractor import FeatureExtractor
from adbench.backbones.feature_cache import FeatureCache
from adbench.config.typed import from_mapping
from adbench.data.batch import Batch
from adbench.errors import UserError
from adbench.methods import ranks
from adbench.methods.aggregation import PatchFeatures
from adbench.methods.base import AnomalyModule, Requirements
from adbench.methods.discriminator import Head
from adbench.methods.memory import built, training_bytes
from adbench.methods.simplenet.detector import SimplenetDetector
from adbench.methods.simplenet.settings import SimplenetKeys
from adbench.synthesis.base import Synthesizer

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

_NOISE = 0


class SimplenetModule(AnomalyModule):
    """Adaptor and discriminator around their detector.

    Args:
        backbone: frozen extractor; its layers are concatenated, finest first.
        synthesis: not used: anomalies are noise on features.
        image_size: working (height, width).
        seed: fixes weights and noise.
        keys: those of ``SimplenetKeys``.
    """

    detector: SimplenetDetector

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
        own = self.keys = from_mapping(SimplenetKeys, keys, "model")
        if backbone is None:
            raise UserError("model=simplenet reads features: set backbone=bundled")
        self.seed = seed
        self.detector = SimplenetDetector(
            backbone, image_size, own.hidden, own.patch, own.score, own.sigma
        )
        width = self.detector.columns
        self.head = built(
            lambda: Head(width, own.hidden, adaptor=own.adaptor),
            "adaptor and discriminator",
            "model.hidden",
        )
        # Batch normalisation takes these biases out again: their gradient is rounding noise, which
        # Adam would turn into steps, and running means that lag behind them would show them.
        self.head.discriminator.hidden.bias.requires_grad_(False)
        if self.head.adaptor is not None:
            self.head.adaptor.bias.requires_grad_(False)
        self._cache: FeatureCache | None = None
        self._unit: Tensor | None = None

    def requirements(self, train_images: int) -> Requirements:
        """Return what holds; the estimate: cached features, training state, a step of an image."""
        height, width = self.detector.image_size
        pairs = zip(self.detector.backbone.channels, self.detector.backbone.strides, strict=True)
        values = sum(c * height * width // s**2 for c, s in pairs) * train_images
        cached = values * (2 if self.keys.cache.dtype == "float16" else 4)
        columns = self.detector.columns + self.keys.hidden
        return Requirements(
            ddp=True,
            memory_bytes=min(cached, self.keys.cache.max_memory)
            + training_bytes(self.head)
            + 6 * 4 * self.detector.positions * columns,
        )

    @torch.no_grad()
    def prepare(self, datamodule: DataModule) -> None:
        """Compute the normals' features once, and the deviation of their columns."""
        self._cache = FeatureCache(
            len(datamodule.train_samples),
            dtype=self.keys.cache.dtype,
            max_memory=self.keys.cache.max_memory,
        )
        images = (batch.image.to(self.device) for batch in datamodule.train_batches())
        self._cache.fill(images, self._parts)
        if self.keys.noise.unit == "column":
            index = torch.arange(0, len(self._cache), max(len(self._cache) // 32, 1))
            self._unit = self._rows(index).std(0)

    def _parts(self, image: Tensor) -> list[Tensor]:
        detector = self.detector
        maps = [found.float() for found in detector.backbone(image)]
        found: PatchFeatures = detector.aggregation(maps)
        return found.parts

    def _rows(self, index: Tensor) -> Tensor:
        """Return cached features [B * P, C] of the training images at ``index``."""
        assert self._cache is not None
        aggregation = self.detector.aggregation
        parts = self._cache(index, self.device)
        return PatchFeatures(
            parts, aggregation.columns, self.detector.grid, aggregation.width
        ).rows()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        keys = self.keys.optimiser
        groups: list[dict[str, Any]] = [
            {
                "params": list(self.head.discriminator.parameters()),
                "lr": keys.discriminator_lr,
                "weight_decay": keys.discriminator_decay,
            }
        ]
        if self.head.adaptor is not None:
            groups.append({"params": list(self.head.adaptor.parameters()), "lr": keys.adaptor_lr})
        return torch.optim.Adam(groups)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.keys.optimiser.schedule == "cosine":
            factor = (1 + math.cos(math.pi * self.progress())) / 2
            optimiser: Any = self.optimizers()
            for group in optimiser.param_groups:
                group["lr"] = factor * group.setdefault("initial_lr", group["lr"])

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        normal = self.head.adapted(self._rows(batch.index))
        whole = (len(normal) * ranks.size(), normal.shape[1])
        drawn = self.common_generator(batch_idx, _NOISE)
        noise = ranks.own_rows(torch.randn(whole, generator=drawn, device=self.device))
        noise *= self.keys.noise.sigma * (1.0 if self._unit is None else self._unit)
        logits = self.head.discriminator(torch.cat([normal, normal + noise]))
        kept, moved = (
            (self.keys.margin - logits[: len(normal)]),
            (self.keys.margin + logits[len(normal) :]),
        )
        normal_loss, noise_loss = kept.clamp(min=0).mean(), moved.clamp(min=0).mean()
        return {
            "loss": normal_loss + noise_loss,
            "normal": normal_loss.detach(),
            "noise": noise_loss.detach(),
        }

    def refresh(self) -> None:
        """Fold the trained head into the detector."""
        self.detector.fold(self.head)

    def finish(self, datamodule: DataModule) -> None:
        """Do what ``refresh`` does."""
        self.refresh()
