"""Training of the subspace: mean and covariance of normal patch features, eigenvectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adbench.backbones.extractor import FeatureExtractor
from adbench.config.typed import from_mapping
from adbench.errors import UserError
from adbench.methods.base import Requirements
from adbench.methods.once import OnePassModule
from adbench.methods.patches import training_rows
from adbench.methods.subspace.detector import SubspaceDetector
from adbench.methods.subspace.settings import SubspaceKeys
from adbench.synthesis.base import Synthesizer

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule


class SubspaceModule(OnePassModule):
    """The subspace around its detector.

    Args:
        backbone: frozen extractor; its layers are concatenated, finest first.
        synthesis: not used; accepted because every module receives it.
        image_size: working (height, width).
        seed: not used: nothing is drawn.
        keys: those of ``SubspaceKeys``.
    """

    detector: SubspaceDetector

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
        self.seed, self.keys = seed, from_mapping(SubspaceKeys, keys, "model")
        if backbone is None:
            raise UserError("model=subspace reads features: set backbone=bundled")
        self.detector = SubspaceDetector(
            backbone, image_size, 1, self.keys.patch, self.keys.score, self.keys.sigma
        )
        most = self.detector.columns
        if self.keys.components is not None and self.keys.components >= most:
            raise UserError(
                f"model.components={self.keys.components}: fewer than the {most} columns of the "
                "features are expected"
            )

    def requirements(self, train_images: int) -> Requirements:
        """Return what holds; the estimate: two covariances and the rows of an image."""
        columns = self.detector.columns
        return Requirements(
            one_pass=True, memory_bytes=16 * columns**2 + 12 * self.detector.positions * columns
        )

    @torch.no_grad()
    def prepare(self, datamodule: DataModule) -> None:
        mean, covariance = moments(training_rows(self.detector, datamodule, self.device, self.memo))
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        count = self.keys.components or explaining(values, self.keys.variance)
        self.detector.set_subspace(mean.float(), vectors[:, :count].float())


def moments(batches: Any) -> tuple[Tensor, Tensor]:
    """Return mean [C] and covariance [C, C] in float64 of batches of rows [..., C].

    Sums are taken about the first batch's mean, so that float32 products lose nothing.
    """
    shift: Tensor | None = None
    total = 0
    first = second = torch.zeros(())
    for batch in batches:
        rows = batch.reshape(-1, batch.shape[-1])
        if shift is None:
            shift = rows.mean(0)
            first = torch.zeros_like(shift, dtype=torch.float64)
            second = torch.zeros(len(shift), len(shift), dtype=torch.float64, device=rows.device)
        centred = rows - shift
        first += centred.sum(0).double()
        second += (centred.mT @ centred).double()
        total += len(rows)
    assert shift is not None
    off = first / total
    return shift.double() + off, second / total - torch.outer(off, off)


def explaining(values: Tensor, share: float) -> int:
    """Return the smallest number of components whose variances reach ``share`` of all.

    At least one is left out.

    Args:
        values: [C] variances, largest first.
    """
    total = values.sum()
    if total <= 0:
        return 1
    reached = (values.cumsum(0) / total) < share
    return min(int(reached.sum()) + 1, len(values) - 1)
