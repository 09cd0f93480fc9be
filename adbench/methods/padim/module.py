"""Training of PaDiM: mean and covariance at every position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adbench.backbones.extractor import FeatureExtractor
from adbench.config.typed import from_mapping
from adbench.errors import UserError
from adbench.methods.base import Requirements, seeded_generator
from adbench.methods.once import OnePassModule
from adbench.methods.padim.detector import PadimDetector
from adbench.methods.padim.settings import PadimKeys
from adbench.methods.patches import training_rows
from adbench.synthesis.base import Synthesizer

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

_COLUMNS = 0xC01
_LARGEST = 6e4  # of half precision


class PadimModule(OnePassModule):
    """PaDiM around its detector.

    Args:
        backbone: frozen extractor; its layers are concatenated, finest first.
        synthesis: not used; accepted because every module receives it.
        image_size: working (height, width).
        seed: fixes which columns are drawn.
        keys: those of ``PadimKeys``.
    """

    detector: PadimDetector

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
        self.seed, self.keys = seed, from_mapping(PadimKeys, keys, "model")
        if backbone is None:
            raise UserError("model=padim reads features: set backbone=bundled")
        known = sum(backbone.channels)
        columns = min(self.keys.columns, known)
        self.detector = PadimDetector(
            backbone, image_size, columns, self.keys.patch, self.keys.score, self.keys.sigma
        )
        drawn = torch.randperm(known, generator=seeded_generator("cpu", seed, _COLUMNS))
        self.detector.index.copy_(drawn[:columns].sort().values)

    def requirements(self, train_images: int) -> Requirements:
        """Return what holds; the estimate: covariances, their factors, the whitening matrices."""
        values = self.detector.positions * self.detector.index.numel() ** 2
        return Requirements(one_pass=True, memory_bytes=14 * values)

    @torch.no_grad()
    def prepare(self, datamodule: DataModule) -> None:
        mean, covariance = self._moments(datamodule)
        covariance.diagonal(dim1=-2, dim2=-1).add_(self.keys.ridge)
        unit = torch.eye(covariance.shape[-1], device=covariance.device)
        for position, own in enumerate(covariance):
            factor = torch.linalg.cholesky(own)
            white = torch.linalg.solve_triangular(factor, unit, upper=False)
            self.detector.whitening[position] = white.clamp(-_LARGEST, _LARGEST).half()
        self.detector.mean.copy_(mean)

    def _moments(self, datamodule: DataModule) -> tuple[Tensor, Tensor]:
        """Return mean [P, d] and covariance [P, d, d], sums taken about the first batch's mean."""
        detector = self.detector
        shift: Tensor | None = None
        first = detector.mean.new_zeros(detector.mean.shape)
        second = first.new_zeros(detector.whitening.shape)
        count = 0
        for rows in training_rows(detector, datamodule, self.device, self.memo):
            shift = rows.mean(0) if shift is None else shift
            centred = (rows - shift).transpose(0, 1)  # [P, B, d]
            first += centred.sum(1)
            second.baddbmm_(centred.mT, centred)
            count += len(rows)
        assert shift is not None
        off = first / count
        second /= count
        second.baddbmm_(off[:, :, None], off[:, None], alpha=-1)
        return shift + off, second
