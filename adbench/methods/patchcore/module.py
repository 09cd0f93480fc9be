"""Training of PatchCore: collect patch features of normals, keep a coreset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adbench.backbones.extractor import FeatureExtractor
from adbench.config.typed import from_mapping
from adbench.errors import UserError
from adbench.methods.base import Requirements, seeded_generator
from adbench.methods.coreset import greedy_coreset, projected
from adbench.methods.once import OnePassModule
from adbench.methods.patchcore.detector import PatchcoreDetector
from adbench.methods.patchcore.settings import PatchcoreKeys
from adbench.methods.patches import training_rows
from adbench.synthesis.base import Synthesizer

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

_CANDIDATES, _PROJECTION, _FIRST = 0xCA4D, 0x940, 0xF125


class PatchcoreModule(OnePassModule):
    """PatchCore around its detector.

    Args:
        backbone: frozen extractor; its layers are concatenated, finest first.
        synthesis: not used; accepted because every module receives it.
        image_size: working (height, width).
        seed: fixes the projection, the first feature and which candidates are drawn.
        keys: those of ``PatchcoreKeys``.
    """

    detector: PatchcoreDetector

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
        self.keys = from_mapping(PatchcoreKeys, keys, "model")
        if backbone is None:
            raise UserError("model=patchcore compares features: set backbone=bundled")
        self.seed = seed
        self.detector = PatchcoreDetector(
            backbone,
            image_size,
            1,
            self.keys.patch,
            self.keys.distance,
            self.keys.match == "positional",
            self.keys.score,
            self.keys.neighbours,
            self.keys.sigma,
        )

    def requirements(self, train_images: int) -> Requirements:
        """Return what holds; the estimate: candidates, bank, a product of an image."""
        patches = train_images * self.detector.positions
        candidates = min(patches, self._most_candidates)
        return Requirements(
            one_pass=True,
            memory_bytes=candidates * self._candidate_bytes
            + 4 * self.keys.bank * self.detector.width
            + 4 * self.detector.positions * (self.detector.width + 4096),
        )

    @property
    def _candidate_bytes(self) -> int:
        """Bytes of a candidate: its feature in half precision, its projection, two distances."""
        width = self.detector.width
        return 2 * width + 4 * min(self.keys.projection or width, width) + 8

    @property
    def _most_candidates(self) -> int:
        return max(self.keys.max_memory // self._candidate_bytes, 1)

    @torch.no_grad()
    def prepare(self, datamodule: DataModule) -> None:
        candidates = self._candidates(datamodule)
        patches = len(datamodule.train_samples) * self.detector.positions
        count = max(min(self.keys.bank, round(self.keys.share * patches), len(candidates)), 1)
        generator = seeded_generator("cpu", self.seed, _PROJECTION)
        points = projected(candidates, self.keys.projection, generator)
        generator = seeded_generator("cpu", self.seed, _FIRST)
        first = int(torch.randint(len(points), (1,), generator=generator))
        kept = greedy_coreset(points, count, first)
        self.detector.set_bank(candidates[kept.sort().values])

    def _candidates(self, datamodule: DataModule) -> Tensor:
        """Return features [N, width] float16 of all training patches, or of a drawn part."""
        images, positions = len(datamodule.train_samples), self.detector.positions
        total = images * positions
        count = min(total, self._most_candidates)
        drawn = torch.ones(total, dtype=torch.bool)
        if count < total:
            generator = seeded_generator("cpu", self.seed, _CANDIDATES)
            drawn[torch.randperm(total, generator=generator)[count:]] = False
        shape = (count, self.detector.width)
        found = torch.empty(shape, dtype=torch.float16, device=self.device)
        start = place = 0
        for rows in self._compared(datamodule):
            kept = rows.flatten(0, 1)[drawn[place : place + rows.shape[:2].numel()]]
            found[start : start + len(kept)] = kept
            start, place = start + len(kept), place + rows.shape[:2].numel()
        return found

    def _compared(self, datamodule: DataModule) -> Iterator[Tensor]:
        """Yield what is compared of the training images, [B, P, width]."""
        if self.detector.positional:
            self.detector.weight.fill_(self._place_weight(datamodule))
        for rows in training_rows(self.detector, datamodule, self.device, self.memo):
            yield self.detector.compared(rows)

    def _place_weight(self, datamodule: DataModule) -> float:
        """Return what places are multiplied by: a shift of ``reach`` costs one deviation.

        The deviation is that of features from their mean, root of the mean square, in the first
        batch of training images.
        """
        rows = next(training_rows(self.detector, datamodule, self.device, self.memo)).flatten(0, 1)
        rows = torch.nn.functional.normalize(rows, dim=-1) if self.detector.cosine else rows
        deviation = (rows - rows.mean(0)).square().sum(1).mean().sqrt()
        return float(deviation) / self.keys.reach
