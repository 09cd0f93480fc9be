"""Latents of normal training images, and of a bank of damaged ones, computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adbench.data.batch import Batch
from adbench.diffusion.latent.base import LatentDiffusion
from adbench.methods.base import seeded_generator
from adbench.synthesis.base import Synthesizer

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

_BANK = 0xBA4C


def cache_bytes(images: int, values: int, bank: int) -> int:
    """Return what the latents of ``images`` take, ``values`` numbers each, in float16."""
    return images * (1 + bank) * values * 2


class LatentPairs:
    """Draws pairs of normal and damaged latents [B, C, h, w], from a bank where it is filled.

    Args:
        model: encodes; frozen but for its network.
        synthesis: damages; None leaves every image normal.
        bank: damaged latents kept for each image by ``fill``; 0 damages and encodes anew.
        device: of the model.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        synthesis: Synthesizer | None,
        bank: int,
        device: torch.device,
    ) -> None:
        self.model, self.synthesis, self.device = model, synthesis, device
        self.bank = bank if synthesis is not None else 0
        self._normal: Tensor | None = None
        self._damaged: Tensor | None = None

    def fill(self, datamodule: DataModule, seed: int) -> None:
        """Encode all training images, and ``bank`` damaged copies of each, into float16."""
        normal, damaged = [], []
        for number, batch in enumerate(datamodule.train_batches()):
            image = batch.image.to(self.device)
            normal.append(self._encoded(image).half().cpu())
            rounds = [
                self._encoded(self._made(image, batch.index, (seed, _BANK, number, i))).half()
                for i in range(self.bank)
            ]
            if rounds:
                damaged.append(torch.stack(rounds, 1).cpu())
        self._normal = torch.cat(normal)
        self._damaged = torch.cat(damaged) if damaged else None

    @torch.no_grad()
    def _encoded(self, image: Tensor) -> Tensor:
        return self.model.encode(image).float()

    def _made(self, image: Tensor, index: Tensor, keys: tuple[int, ...]) -> Tensor:
        """Return the images with synthetic defects, drawn by ``keys``."""
        assert self.synthesis is not None
        generator = seeded_generator(self.device, *keys)
        foreground = self.synthesis.foreground_masks(index.to(self.device))
        return self.synthesis(image, foreground=foreground, generator=generator).image

    def __call__(self, batch: Batch, share: float, keys: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return normal and damaged latents of a batch, drawn by ``keys``.

        An image stays normal with probability 1 - ``share``: both latents are then one.
        """
        index = batch.index.cpu()
        if self._normal is not None:
            normal = self._normal[index].to(self.device, torch.float32)
        else:
            normal = self._encoded(batch.image)
        generator = seeded_generator("cpu", *keys)
        rows = (torch.rand(len(index), generator=generator) < share).nonzero().squeeze(1)
        if not len(rows) or self.synthesis is None:
            return normal, normal
        if self._damaged is not None:
            which = torch.randint(self.bank, (len(rows),), generator=generator)
            new = self._damaged[index[rows], which].to(self.device, torch.float32)
        else:
            image = batch.image[rows.to(batch.image.device)]
            new = self._encoded(self._made(image, index[rows], (*keys, 1)))
        return normal, normal.index_copy(0, rows.to(self.device), new)
