"""What detectors share that judge every patch feature by itself: features, map, image score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.backbones.extractor import FeatureExtractor
from adbench.backbones.maps import smooth_upsample, working_picture
from adbench.data.datamodule import DataModule
from adbench.errors import UserError
from adbench.methods.aggregation import Aggregation
from adbench.methods.base import Detector, Prediction
from adbench.methods.memo import RowMemo


class PatchDetector(Detector):
    """Scores each position of the finest layer's grid by its patch feature.

    Subclasses implement ``distances``.

    Args:
        backbone: config of the FeatureExtractor, or one that is built; finest layer first.
        image_size: working (height, width).
        patch: side of the neighbourhood that is averaged; None: 3, or 1 where all layers have one
            stride (tokens of a transformer have seen their neighbours).
        sigma: of the Gaussian on the map, pixels at the working size; 0: none.
        score: ``grid``: the largest distance; ``map``: the largest value of the smoothed map.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        image_size: Sequence[int],
        patch: int | None = None,
        sigma: float = 4.0,
        score: str = "map",
    ) -> None:
        super().__init__()
        extractor: Any = (
            backbone if isinstance(backbone, nn.Module) else FeatureExtractor(**dict(backbone))
        )
        self.backbone = extractor
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.sigma, self.score = sigma, score
        strides = list(extractor.strides)
        if sorted(strides) != strides:
            raise UserError(f"model.layers: strides {strides}, finest first is expected")
        side = patch or (1 if len(strides) > 1 and len(set(strides)) == 1 else 3)
        self.aggregation = Aggregation(extractor.channels, side, form="paper")
        self.grid = self.aggregation.grid(self.image_size, strides[0])
        if min(self.grid) < 1:
            raise UserError(
                f"model.patch={side} leaves no position of {self.image_size[0]}x"
                f"{self.image_size[1]} px at stride {strides[0]}; read finer layers or lower it"
            )
        self.config = {
            "backbone": extractor.config,
            "image_size": list(self.image_size),
            "patch": patch,
            "sigma": sigma,
            "score": score,
        }

    @property
    def positions(self) -> int:
        """Positions of the grid, P."""
        return self.grid[0] * self.grid[1]

    @property
    def columns(self) -> int:
        """Columns of a patch feature, C."""
        return int(self.aggregation.width)

    def rows(self, image: Tensor) -> Tensor:
        """Return patch features [B, P, C] float32 of images at the working size."""
        # Channels last: a third faster on a CPU, equal but for the order of sums.
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            maps = [found.float() for found in self.backbone(image)]
        found: Tensor = self.aggregation(maps).rows()
        return found.view(
            -1, self.positions, self.columns
        )  # len() would fix the batch of an export

    def distances(self, rows: Tensor) -> Tensor:
        """Return how far each feature is from normal, [B, P]; larger is more anomalous."""
        raise TypeError(f"{type(self).__name__} does not implement distances")

    def forward(self, image: Tensor) -> Prediction:
        size = (int(image.shape[-2]), int(image.shape[-1]))
        rows = self.rows(working_picture(image, self.image_size))
        with torch.autocast(image.device.type, enabled=False):
            distance, score = self.judged(rows)
        anomaly_map = smooth_upsample(distance.view(-1, 1, *self.grid), self.image_size, self.sigma)
        if self.score == "map":
            score = anomaly_map.amax((1, 2, 3))
        if size != self.image_size:
            anomaly_map = F.interpolate(anomaly_map, size, mode="bilinear", align_corners=False)
        return Prediction(score, anomaly_map)

    def judged(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return distances [B, P] and image scores [B] of patch features."""
        found = self.distances(rows)
        return found, found.amax(1)


@torch.no_grad()
def training_rows(
    detector: PatchDetector,
    datamodule: DataModule,
    device: torch.device | str,
    memo: RowMemo | None = None,
) -> Iterator[Tensor]:
    """Yield the patch features [B, P, C] of the training normals in index order."""
    for batch in datamodule.train_batches():
        if memo is None:
            yield detector.rows(batch.image.to(device))
        else:
            yield memo.rows(batch, lambda absent: detector.rows(absent.image.to(device)))
