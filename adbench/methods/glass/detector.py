"""What inference needs: backbone, aggregation, one folded matrix and a vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.backbones import FeatureExtractor
from adbench.backbones.maps import smooth_upsample, working_picture
from adbench.methods.aggregation import Aggregation, PatchFeatures, upsample
from adbench.methods.base import Detector, Prediction
from adbench.methods.discriminator import SLOPE, Head
from adbench.methods.glass.bank import NormalBank
from adbench.methods.memory import refuse_beyond


class GlassDetector(Detector):
    """Scores each position of a grid by the folded discriminator.

    The image score is the largest probability on the grid before the map is resized and smoothed
    (code), or one that a single loud position does not decide: the largest of the smoothed map, or
    the mean of the hundredth of the grid with the largest probabilities.

    Args:
        backbone: keyword arguments of the FeatureExtractor.
        image_size: (height, width) images are brought to.
        patch, embed, aggregation: of the local averaging.
        hidden: width of the discriminator's hidden layer.
        sigma: of the Gaussian on the map, pixels at the working size.
        score: ``grid``, ``map`` or ``top``: the image score, in this order.
        bank, share: features kept beside the discriminator and its share (``NormalBank``); 0: none.
        coarse: ``image_size`` of a smaller picture and ``bank``, the features kept of such; None:
            there is none.
        extractor: the built backbone; None builds one with untrained values.
    """

    backbone: FeatureExtractor
    aggregation: Aggregation

    def __init__(
        self,
        backbone: Mapping[str, Any],
        image_size: Sequence[int],
        patch: int = 3,
        embed: int = 1536,
        aggregation: str = "code",
        hidden: int = 1024,
        sigma: float = 4.0,
        score: str = "grid",
        bank: int = 0,
        share: float = 0.3,
        coarse: Mapping[str, Any] | None = None,
        extractor: FeatureExtractor | None = None,
    ) -> None:
        super().__init__()
        self.backbone = FeatureExtractor(**backbone) if extractor is None else extractor
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.sigma, self.score = sigma, score
        self.aggregation = Aggregation(self.backbone.channels, patch, embed, aggregation)
        self.config = {
            "backbone": dict(backbone),
            "image_size": list(self.image_size),
            "patch": patch,
            "embed": embed,
            "aggregation": aggregation,
            "hidden": hidden,
            "sigma": sigma,
            "score": score,
            "bank": bank,
            "share": share,
            "coarse": None if coarse is None else dict(coarse),
        }
        refuse_beyond(
            4 * hidden * self.aggregation.width,
            "the folded discriminator",
            "model.embed or model.hidden",
        )
        self.weight: Tensor
        self.bias: Tensor
        self.output: Tensor
        self.register_buffer("weight", torch.zeros(hidden, self.aggregation.width))
        self.register_buffer("bias", torch.zeros(hidden))
        self.register_buffer("output", torch.zeros(hidden))
        width = self.aggregation.width
        kept = bank if coarse is None else max(bank, int(coarse["bank"]))
        refuse_beyond(8 * kept * width, "the features kept", "model.bank.size")
        self.bank = NormalBank(bank, width, share) if bank else None
        self.coarse = None if coarse is None else NormalBank(coarse["bank"], width, 0.0)

    @torch.no_grad()
    def fold(self, head: Head, unit: Tensor | None = None) -> None:
        """Take over what ``head`` computes in eval mode of features over their ``unit`` [C]."""
        for own, folded in zip((self.weight, self.bias, self.output), head.folded(), strict=True):
            own.copy_(folded)
        if unit is not None:
            self.weight /= unit.to(self.weight)

    def forward(self, image: Tensor) -> Prediction:
        """Return the map, resized and smoothed (Eq. 9), and the image score (Sec. 3.5)."""
        size = (image.shape[-2], image.shape[-1])
        image = working_picture(image, self.image_size)
        grid = self._grid(self.maps(image))
        anomaly_map = smooth_upsample(grid, self.image_size, self.sigma)
        if self.coarse is not None:
            anomaly_map = anomaly_map + self._coarse_map(image)
        score = self._image_score(grid, anomaly_map)
        if size != self.image_size:
            anomaly_map = F.interpolate(anomaly_map, size, mode="bilinear", align_corners=False)
        return Prediction(score, anomaly_map)

    def _grid(self, maps: Sequence[Tensor]) -> Tensor:
        """Return [B, 1, h, w]: probabilities or, with a bank, both maps joined."""
        logits = self.logits(maps)
        if self.bank is None:
            return torch.sigmoid(logits)
        with torch.autocast(maps[0].device.type, enabled=False):
            distance = self.bank.distances(self.aggregate(maps).rows())
        return self.bank.joined(distance.view_as(logits), logits)

    def _coarse_map(self, image: Tensor) -> Tensor:
        """Return the distance map [B, 1, H, W] of the smaller picture, blurred by as much of it."""
        assert self.coarse is not None
        features = self.aggregate(self.maps(self.coarse_picture(image)))
        with torch.autocast(image.device.type, enabled=False):
            distance = self.coarse.scaled(self.coarse.distances(features.rows()))
        grown = self.image_size[0] / self.config["coarse"]["image_size"][0]
        grid = distance.view(-1, 1, *features.grid)
        return smooth_upsample(grid, self.image_size, self.sigma * grown)

    def coarse_picture(self, image: Tensor) -> Tensor:
        """Return the smaller pictures of pictures at the working size."""
        height, width = self.config["coarse"]["image_size"]
        return working_picture(image, (height, width))

    def _image_score(self, grid: Tensor, anomaly_map: Tensor) -> Tensor:
        if self.score == "top":
            count = max(grid[0].numel() // 100, 1)
            return grid.flatten(1).topk(count).values.mean(1)
        return (grid if self.score == "grid" else anomaly_map).amax((1, 2, 3))

    def maps(self, image: Tensor) -> list[Tensor]:
        """Return the backbone's maps of images at the working size, float32."""
        return [found.float() for found in self.backbone(image)]

    def aggregate(self, maps: Sequence[Tensor]) -> PatchFeatures:
        """Return the aggregated features of the backbone's maps."""
        found: PatchFeatures = self.aggregation(maps)
        return found

    def logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the discriminator's logits [B, 1, h, w] of the backbone's maps."""
        with torch.autocast(maps[0].device.type, enabled=False):
            features = self.aggregate(maps)
            if maps[0].device.type != "cpu" or torch.jit.is_tracing() or _compiling():
                return self._position_logits(features)
            # An image's hidden layer fits the last-level cache, a batch's does not.
            single = [self._position_logits(features.image(i)) for i in range(len(features))]
            return torch.cat(single)

    def row_logits(self, rows: Tensor) -> Tensor:
        """Return the discriminator's logits [N] of joined features [N, C]."""
        return F.leaky_relu_(F.linear(rows, self.weight, self.bias), SLOPE) @ self.output

    def _position_logits(self, features: PatchFeatures) -> Tensor:
        hidden: Tensor | None = None
        for part, (start, stop) in reversed(
            list(zip(features.parts, features.columns, strict=True))
        ):
            weight = self.weight[:, start:stop]
            if hidden is None:  # the resize keeps a constant, so that the bias may precede it
                hidden = upsample(F.linear(part, weight, self.bias), features.grid).flatten(0, 2)
            elif (part.shape[1], part.shape[2]) == features.grid:
                hidden.addmm_(part.flatten(0, 2), weight.mT)
            else:
                hidden += upsample(part @ weight.mT, features.grid).flatten(0, 2)
        assert hidden is not None
        logits = F.leaky_relu_(hidden, SLOPE) @ self.output
        return logits.view(-1, 1, *features.grid)


def _compiling() -> bool:
    return bool(torch.compiler.is_compiling())
