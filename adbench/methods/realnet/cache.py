"""Features of the normal training images, computed once: they are not augmented."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adbench.data.datamodule import DataModule
from adbench.methods.realnet.settings import CacheKeys


class NormalFeatures:
    """Returns features of training images by their position in the split.

    Kept in memory where all of them fit into ``keys.max_memory`` bytes, else computed anew at
    each call. float32 repeats the computation bit for bit; float16 halves the memory and rounds.

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
        self.dtype = getattr(torch, keys.dtype)
        self.kept: list[Tensor] = []
        self._fill(keys.max_memory)

    @torch.no_grad()
    def _fill(self, max_memory: int) -> None:
        count, start = len(self.datamodule.train_samples), 0
        for batch in self.datamodule.train_batches():
            maps = self.extract(batch.image.to(self.device))
            if not start:
                values = count * sum(m[0].numel() for m in maps)
                if values * self.dtype.itemsize > max_memory:
                    return
                self.kept = [m.new_empty(count, *m.shape[1:], dtype=self.dtype).cpu() for m in maps]
            for kept, new in zip(self.kept, maps, strict=True):
                kept[start : start + len(batch)] = new
            start += len(batch)

    @torch.no_grad()
    def __call__(self, index: Tensor, image: Tensor | None = None) -> list[Tensor]:
        """Return maps float32 of the images at ``index`` [B], which ``image`` holds if given."""
        if self.kept:
            places = index.cpu()
            return [kept[places].to(self.device, torch.float32) for kept in self.kept]
        if image is None:
            image = self.datamodule.train_images(index.cpu()).to(self.device)
        return [m.float() for m in self.extract(image)]
