"""Inference: anomalib's torch model between our normalisation and our prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.backbones.maps import working_picture
from adbench.methods.anomalib.theirs import built
from adbench.methods.base import Detector, Prediction


class AnomalibDetector(Detector):
    """A torch model of anomalib; scores and maps are what its forward returns.

    Args:
        method: which model.
        backbone: ``name``, ``layers``, ``mean`` and ``std`` of the network it reads.
        image_size: working (height, width).
        options: of anomalib's own class.
        model: the built one; None builds it with untrained values.
    """

    def __init__(
        self,
        method: str,
        backbone: Mapping[str, Any],
        image_size: Sequence[int],
        options: Mapping[str, Any],
        model: Any = None,
    ) -> None:
        super().__init__()
        self.image_size = (int(image_size[0]), int(image_size[1]))
        own = {key: backbone[key] for key in ("name", "layers", "mean", "std")}
        if model is None:
            model = built(method, own["name"], own["layers"], options, None).model
        self.model = model
        self.mean: Tensor
        self.std: Tensor
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(own[name]).view(1, 3, 1, 1), persistent=False)
        self.config = {
            "method": method,
            "backbone": own,
            "image_size": list(self.image_size),
            "options": dict(options),
        }

    def forward(self, image: Tensor) -> Prediction:
        size = (int(image.shape[-2]), int(image.shape[-1]))
        working = working_picture(image, self.image_size)
        found = self.model((working - self.mean) / self.std)
        anomaly_map = found.anomaly_map.float().view(len(image), 1, *self.image_size)
        score = anomaly_map.amax((1, 2, 3)) if found.pred_score is None else found.pred_score
        if size != self.image_size:
            anomaly_map = F.interpolate(anomaly_map, size, mode="bilinear", align_corners=False)
        return Prediction(score.float().reshape(len(image)), anomaly_map)
