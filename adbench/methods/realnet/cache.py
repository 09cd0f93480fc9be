"""Features of the normal training images, computed once: they are not augmented."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adbench.backbones.feature_cache import FeatureCache
from adbench.data.datamodule import DataModule
from adbench.methods.realnet.settings import CacheKeys


class NormalFeatures:
    """Returns features of training images by their position in the split.

    Kept in a ``FeatureCache``: in memory up to ``keys.max_memory`` bytes, beyond that in a mapped
    file; with 0 computed anew at each call. float32 repeats the computation bit for bit; float16
    halves the memory and rounds.

    Args:
        extract: images [B, 3, H, W] on the model's device -> maps [B, c, h, w].
    """

    def __init__(
        self,
        datamodule: DataModule,
        extract: Callable[[Tensor], Sequence[Tensor]],
        keys: CacheKeys,
        device: torch.device,
    ) -> None:
        self.datamodule, self.extract, self.device = datamodule, extract, device
        self.kept: FeatureCache | None = None
        if keys.max_memory:
            count = len(datamodule.train_samples)
            self.kept = FeatureCache(count, dtype=keys.dtype, max_memory=keys.max_memory)
            images = (batch.image.to(device) for batch in datamodule.train_batches())
            self.kept.fill(images, extract)

    @torch.no_grad()
    def __call__(self, index: Tensor, image: Tensor | None = None) -> list[Tensor]:
        """Return maps float32 of the images at ``index`` [B], which ``image`` holds if given."""
        if self.kept is not None:
            return self.kept(index, self.device)
        if image is None:
            image = self.datamodule.train_images(index.cpu()).to(self.device)
        return [m.float() for m in self.extract(image)]
